"""Candidates side by side, for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = ("candidate", "quality (interval)", "lost to best, at most", "p", "coverage", "disk MB",
          "memory MB", "ms, median / p95", "tokens/s", "verdict")  # fmt: skip


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a line a candidate."""
    dashes = ("---", *("---:" for _ in HEADER[2:]), "---")
    lines = (HEADER, dashes, *map(_cells, rows))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def told(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Three lines a candidate, which fit on any terminal."""
    found = []
    for row in rows:
        name, quality, lost, p, coverage, disk, memory, ms, rate, verdict = _cells(row)
        tokens = "" if rate == "-" else f", {rate} tokens/s"
        found += [
            f"{name}: {verdict}",
            f"  quality {quality}; lost to best, at most: {lost}; p {p}; coverage {coverage}",
            f"  {disk} MB on disk, {memory} MB of memory, {ms} ms (median / p95){tokens}",
        ]
    return found


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    interval = f"{row['quality_low']:.1%} to {row['quality_high']:.1%}"
    memory, rate, coverage = row["memory_bytes"], row["tokens_per_s"], row["coverage"]
    return (
        row["name"],
        f"{row['quality']:.2%} ({interval})",
        f"{row['lost_to_best']:.2%}, {row['lost_to_best_bound']:.2%}",
        f"{row['mcnemar_p']:.2g}",
        "-" if coverage is None else f"{coverage:.1%}",
        f"{row['size_bytes'] / 1e6:.1f}",
        "-" if memory is None else f"{memory / 1e6:.0f}",
        f"{row['median_ms']:.2f} / {row['p95_ms']:.2f}",
        "-" if rate is None else f"{rate:.0f}",
        "chosen" if row["chosen"] else str(row["standing"]),
    )
