"""Fixtures of the agent's unit tests."""

from __future__ import annotations

import pytest

from tests.support.published import MemoryFleet


@pytest.fixture
def fleet() -> MemoryFleet:
    return MemoryFleet()
