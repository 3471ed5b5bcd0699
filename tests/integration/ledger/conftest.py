"""Fixtures of the ledger's integration tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ledger import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "box" / "ledger.db"
