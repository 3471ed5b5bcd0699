"""What every test run needs: no GPU test passes by silence, and the report says what ran where."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _make_importable(package: str) -> None:
    """Let tests import a folder of the repository that no wheel holds, and no other."""
    folder = ROOT / package
    spec = importlib.util.spec_from_file_location(
        package, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    spec.loader.exec_module(module)


_make_importable("benchmarks")


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
    return ROOT
