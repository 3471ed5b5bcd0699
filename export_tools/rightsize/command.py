"""The whole of `edge-export rightsize`, without a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.core import Kind
from edge_runtime.errors import UsageError
from export_tools.certify.issue import Terms
from export_tools.certify.traffic import data_digest, read_examples
from export_tools.rightsize.choose import Choice, Wanted, choose
from export_tools.rightsize.measure import (
    Candidate,
    Job,
    Measured,
    candidates_in,
    measured_apart,
    right_of,
)
from export_tools.rightsize.plot import Point, svg
from export_tools.rightsize.prefer import Prefer
from export_tools.rightsize.tables import markdown

REPORT_FILE, PLOT_FILE, TABLE_FILE = "rightsize.json", "rightsize.svg", "rightsize.md"
MIN_TEXTS = 20
QUALITY = {
    Kind.CLASSIFY: "label right",
    Kind.GENERATE: "whole JSON right",
    Kind.EMBED: "nearest text has the same label",
}


@dataclass(frozen=True, slots=True)
class RightsizeRequest:
    """What to compare, on what, and what is good enough. `out` is a folder to make, or None."""

    bundles: tuple[Path, ...]
    data: tuple[Path, ...]
    task: str
    terms: Terms
    wanted: Wanted
    oos: tuple[Path, ...] = ()
    oos_share: float | None = None
    variants: tuple[str, ...] = ()
    prefer: Prefer = Prefer.SIZE
    timed: int = 100
    threads: int | None = None
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class Rightsized:
    """All candidates as measured, and the choice among them."""

    candidates: tuple[Candidate, ...]
    measured: tuple[Measured, ...]
    choice: Choice
    texts: int
    data_sha256: str

    def rows(self) -> list[dict[str, Any]]:
        """One row a candidate, as JSON values; sizes in bytes, times in milliseconds."""
        found = []
        for at, (one, did, judged) in enumerate(
            zip(self.candidates, self.measured, self.choice.judged, strict=True)
        ):
            pair = judged.against_best
            found.append(
                {
                    "name": one.name,
                    "chosen": at == self.choice.chosen,
                    "standing": judged.standing,
                    "quality": judged.quality,
                    "quality_low": judged.low,
                    "quality_high": judged.high,
                    "lost_to_best": pair.loss,
                    "lost_to_best_bound": pair.bound,
                    "only_best_right": pair.lost,
                    "only_this_right": pair.won,
                    "mcnemar_p": pair.p,
                    "coverage": did.coverage.share,
                    "uncertified": did.coverage.why,
                    "size_bytes": one.size_bytes,
                    "memory_bytes": did.memory_bytes,
                    "median_ms": did.median_ms,
                    "p95_ms": did.p95_ms,
                    "tokens_per_s": did.tokens_per_s,
                }
            )
        return found


def rightsize(
    request: RightsizeRequest,
    now: datetime,
    *,
    run: Callable[[Candidate, Job], Measured] = measured_apart,
    told: Callable[[str], None] = lambda _name: None,
) -> Rightsized:
    """Run every candidate on the same texts, judge, choose, and write report, table and plot.

    `told` hears of each candidate before it runs. Raises `UsageError`, `BundleError` or
    `EngineError`; then nothing was written. Costs one run of every candidate a text.
    """
    if request.out is not None and request.out.exists():
        raise UsageError(f"{request.out} exists; remove it or choose another", param="out")
    candidates = candidates_in(request.bundles, request.variants)
    examples = read_examples(request.data, right=right_of(candidates[0].kind))
    inside = tuple(one for one in examples if one.label is not None)
    outside = tuple(one for one in examples if one.label is None)
    outside += tuple(read_examples(request.oos, out_of_scope=True))
    if len(inside) < MIN_TEXTS:
        raise UsageError(
            f"{len(inside)} labelled texts tell no candidates apart: give {MIN_TEXTS} at the very "
            "least, some thousands for a margin of a percent",
            param="data",
        )
    job = Job(
        data=inside,
        oos=outside,
        oos_share=request.oos_share,
        task=request.task,
        terms=request.terms,
        now=now,
        timed=request.timed,
        threads=request.threads,
    )
    measured = []
    for one in candidates:
        told(one.name)
        measured.append(run(one, job))
    choice = choose(
        [one.name for one in candidates],
        [np.array(one.wrong, bool) for one in measured],
        [_cost(one, did, request.prefer) for one, did in zip(candidates, measured, strict=True)],
        request.wanted,
    )
    result = Rightsized(
        tuple(candidates), tuple(measured), choice, len(inside), data_digest(inside)
    )
    if request.out is not None:
        _write(request.out, request, result)
    return result


def _cost(one: Candidate, did: Measured, prefer: Prefer) -> float:
    if prefer is Prefer.TIME:
        return did.median_ms
    if prefer is Prefer.MEMORY:
        if did.memory_bytes is None:
            raise UsageError("this system does not tell a process's memory: prefer size or time")
        return float(did.memory_bytes)
    return float(one.size_bytes)


def _write(out: Path, request: RightsizeRequest, result: Rightsized) -> None:
    rows = result.rows()
    wanted = request.wanted
    report = {
        "task": request.task,
        "quality": QUALITY[result.candidates[0].kind],
        "texts": result.texts,
        "data_sha256": result.data_sha256,
        "alpha": request.terms.alpha,
        "certificate_delta": request.terms.delta,
        "margin": None if wanted.floor is not None else wanted.margin,
        "floor": wanted.floor,
        "delta": wanted.delta,
        "prefer": request.prefer,
        "why": result.choice.why,
        "candidates": rows,
    }
    try:
        out.mkdir(parents=True)
        (out / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        (out / TABLE_FILE).write_text(markdown(rows), "utf-8")
        (out / PLOT_FILE).write_text(_plot(request, result, rows), "utf-8")
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}", param="out") from error


def _plot(request: RightsizeRequest, result: Rightsized, rows: Sequence[dict[str, Any]]) -> str:
    field, scale, label = {
        Prefer.SIZE: ("size_bytes", 1e6, "MB on disk"),
        Prefer.MEMORY: ("memory_bytes", 1e6, "MB of memory"),
        Prefer.TIME: ("median_ms", 1.0, "ms a request, median"),
    }[request.prefer]
    points = [
        Point(
            row["name"],
            max(row[field] / scale, 1e-3),
            row["quality"],
            row["quality_low"],
            row["quality_high"],
            row["chosen"],
        )
        for row in rows
    ]
    quality = QUALITY[result.candidates[0].kind]
    return svg(points, title=f"{request.task}: {quality}", x_label=label, y_label="quality")
