"""A place for a semantic cache, and a clock that stands still."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.semantic import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "semantic.db"
