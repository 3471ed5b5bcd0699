"""What every test run needs: no GPU test passes by silence, and the report says what ran where."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest


@cache
def cuda_device() -> str | None:
    """The name of the first CUDA device, or None."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    names = answer.stdout.strip().splitlines() if answer.returncode == 0 else []
    return names[0] if names else None


def pytest_report_header() -> list[str]:
    import edge_runtime

    return [
        f"edge_runtime: {Path(edge_runtime.__file__).parent}",
        f"cuda device: {cuda_device() or 'none, tests marked gpu are skipped'}",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if cuda_device() is not None:
        return
    skip = pytest.mark.skip(reason="GPU TEST NOT RUN: no CUDA device on this machine")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree the tests lie in; not on the import path."""
    return Path(__file__).resolve().parents[1]
