"""The library under test; without one these tests are skipped, with the reason in the report."""

from __future__ import annotations

import pytest

from edge_runtime.engine import native as package
from tests.support.native import Native


@pytest.fixture(scope="session")
def native() -> Native:
    verdict = package.examine(package.LIBRARY)
    if verdict.path is None:
        pytest.skip(f"NATIVE OPERATORS NOT TESTED: {verdict.reason}")
    return Native(verdict.path)
