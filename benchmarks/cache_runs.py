"""What the benchmarks of both caches share: answers, timing of single calls, the command."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_runtime.cache.answers import Answer

Run = Callable[[int, int, int, Path], dict[str, object]]
"""Figures for a number of entries, of lookups, of stream pieces an answer; in an empty folder."""


def answer(number: int, pieces: int) -> Answer:
    words = [f"word{number + place} " for place in range(pieces)]
    body = {"choices": [{"message": {"content": "".join(words)}, "finish_reason": "stop"}]}
    stream = tuple({"choices": [{"index": 0, "delta": {"content": word}}]} for word in words)
    return Answer(body, stream, 200, pieces)


def timed(call: Callable[[int], object], numbers: Sequence[int]) -> list[float]:
    """Milliseconds of each call."""
    found = []
    for number in numbers:
        start = time.perf_counter_ns()
        call(number)
        found.append((time.perf_counter_ns() - start) / 1e6)
    return found


def summary(times_ms: Sequence[float]) -> dict[str, float]:
    ranked = sorted(times_ms)
    at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    shown = {name: ranked[int(share * (len(ranked) - 1))] for name, share in at.items()}
    return {name: round(value, 4) for name, value in (shown | {"max": ranked[-1]}).items()}


def command(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark of a cache has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--lookups", type=int, default=20_000)
    parser.add_argument("--pieces", type=int, default=64, help="stream pieces an answer")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def measure(run: Run, arguments: argparse.Namespace) -> None:
    """Run in a folder that goes away, and show the figures."""
    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        figures = run(arguments.entries, arguments.lookups, arguments.pieces, Path(folder))
    show(figures, arguments.json)


def show(figures: dict[str, object], path: Path | None) -> None:
    """Print figures as JSON, and write them to a file."""
    text = json.dumps(figures, indent=2)
    print(text)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")
