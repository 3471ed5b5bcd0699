"""The benchmark of the semantic cache runs, finds what it kept, and stays in its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from benchmarks.semantic_cache import run


def test_a_tiny_run_finds_every_paraphrase(tmp_path: Path) -> None:
    found = cast("dict[str, Any]", run(entries=150, lookups=20, pieces=2, folder=tmp_path))
    assert found["entries"] == 150
    assert found["found"] == 1.0
    assert found["hit_ms"]["p50"] > 0
