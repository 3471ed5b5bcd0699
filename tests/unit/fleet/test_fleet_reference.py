"""The reference page of the API is that of the routes there are."""

from __future__ import annotations

from pathlib import Path

from fleet.api.reference import PAGE, page
from fleet.api.table import ROUTES

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_fresh() -> None:
    written = (ROOT / "docs" / "reference" / PAGE).read_text("utf-8")
    assert written == page(), "run: python -m fleet.api.reference docs/reference"
    assert written.count("\n| `") == len(ROUTES)
