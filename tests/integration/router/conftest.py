"""Fixtures of the router's integration tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.frontier_answers import read_table


@pytest.fixture(scope="module")
def table(repository: Path) -> Mapping[str, str]:
    path = repository / "tests" / "data" / "clinc150" / "train.jsonl"
    return read_table(path.read_text(encoding="utf-8").splitlines())
