"""How often drift alarms come falsely, and how late they come when traffic changes.

    python -m benchmarks.drift --markdown table.md --json figures.json

Scores come from two populations, in scope and out of scope, mixed 82 : 18. Each run draws a
calibration of its own, takes coverage and deciles from it as a certificate does, and watches a
stream with the daemon's own `DriftWatch` and default settings. Then the mix changes, or the
tokens a request, and the requests until the alarm are counted. Needs numpy alone.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe_machine
from edge_runtime.router.watch.contract import Alarm, Terms
from edge_runtime.router.watch.drift import DriftWatch
from edge_runtime.router.watch.settings import AuditSettings, DriftSettings
from edge_runtime.stats.clopper_pearson import lower_bound, upper_bound

CALIBRATION = 1339  # as many as the certificate of intent-clinc150 was made from
OUT_OF_SCOPE = 0.18
COVERAGE = 0.77
TOKENS_MEAN = 60.0
QUIET_BEFORE = 1500
SEED = 20119


@dataclass(frozen=True)
class Change:
    """What traffic becomes: the share out of scope, and the factor on tokens."""

    name: str
    out_of_scope: float = OUT_OF_SCOPE
    tokens: float = 1.0


NONE = Change("none")
CHANGES = (
    Change("out of scope 18 % to 23 %", out_of_scope=0.23),
    Change("out of scope 18 % to 28 %", out_of_scope=0.28),
    Change("out of scope 18 % to 38 %", out_of_scope=0.38),
    Change("out of scope 18 % to 8 %", out_of_scope=0.08),
    Change("tokens a request x 1.5", tokens=1.5),
    Change("tokens a request x 2", tokens=2.0),
    Change("tokens a request x 0.5", tokens=0.5),
)


@dataclass(frozen=True)
class Delay:
    """Requests from a change to the alarm, over all runs; a run without one counts as `limit`."""

    change: str
    kept_outside: float  # share of what is kept that is out of scope
    runs: int
    seen: int
    median: float
    ninth: float
    limit: int
    by: dict[str, int]


@dataclass(frozen=True)
class Quiet:
    """Runs without a change, and how many alarmed all the same."""

    runs: int
    requests: int
    alarmed: int
    low: float
    high: float
    by: dict[str, int]


def scores(
    generator: np.random.Generator, size: int, out_of_scope: float
) -> npt.NDArray[np.float64]:
    """Margins like those of a classifier: high in scope, spread below outside."""
    inside = generator.beta(4.0, 0.7, size)
    outside = generator.beta(0.9, 1.8, size)
    return np.where(generator.random(size) < out_of_scope, outside, inside)


def kept_outside(threshold: float, change: Change, generator: np.random.Generator) -> float:
    """Of what is kept under `change`, the share that is out of scope, and so wrong."""
    size = 20_000
    share = change.out_of_scope
    outside = share * float(np.mean(scores(generator, size, 1.0) >= threshold))
    inside = (1 - share) * float(np.mean(scores(generator, size, 0.0) >= threshold))
    return outside / (outside + inside)


def tokens(generator: np.random.Generator, size: int, factor: float) -> npt.NDArray[np.int64]:
    """Log-normal, with a mean of `TOKENS_MEAN` times `factor`."""
    drawn = generator.lognormal(np.log(TOKENS_MEAN * factor) - 0.125, 0.5, size)
    return np.maximum(1, drawn).astype(np.int64)


def terms(generator: np.random.Generator) -> Terms:
    """What a certificate would say of a calibration drawn now."""
    drawn = scores(generator, CALIBRATION, OUT_OF_SCOPE)
    threshold = float(np.quantile(drawn, 1 - COVERAGE))
    return Terms(
        certificate="c" * 64,
        task="intent",
        model_digest="d" * 64,
        alpha=0.05,
        delta=0.10,
        threshold=threshold,
        coverage=float(np.mean(drawn >= threshold)),
        calibration_size=CALIBRATION,
        score_deciles=tuple(np.quantile(drawn, np.arange(1, 10) / 10).tolist()),
        reference="gold",
    )


def stream(
    watch: DriftWatch, generator: np.random.Generator, size: int, change: Change
) -> tuple[int, Alarm] | None:
    """The place and the alarm, None when `size` requests went by quietly."""
    drawn = zip(
        scores(generator, size, change.out_of_scope),
        tokens(generator, size, change.tokens),
        strict=True,
    )
    for place, (score, count) in enumerate(drawn, 1):
        alarm = watch.observe(score=float(score), tokens=int(count), at_us=place)
        if alarm is not None:
            return place, alarm
    return None


def quiet(runs: int, requests: int, seed: int) -> Quiet:
    """Watch traffic that does not change."""
    found: Counter[str] = Counter()
    for run in range(runs):
        generator = np.random.default_rng((seed, run))
        watch = DriftWatch(terms(generator), DriftSettings(), AuditSettings())
        seen = stream(watch, generator, requests, NONE)
        if seen is not None:
            found[_label(seen[1])] += 1
    count = found.total()
    return Quiet(
        runs,
        requests,
        count,
        lower_bound(count, runs, 0.025),
        upper_bound(count, runs, 0.025),
        dict(found),
    )


def delay(change: Change, runs: int, limit: int, seed: int) -> Delay:
    """Watch `QUIET_BEFORE` requests as ever, then the change; runs that alarm before count not."""
    delays: list[int] = []
    outside: list[float] = []
    found: Counter[str] = Counter()
    run = 0
    while len(delays) < runs:
        generator = np.random.default_rng((seed, run))
        run += 1
        watch = DriftWatch(terms(generator), DriftSettings(), AuditSettings())
        if stream(watch, generator, QUIET_BEFORE, NONE) is not None:
            continue
        seen = stream(watch, generator, limit, change)
        outside.append(kept_outside(watch.terms.threshold, change, generator))
        delays.append(limit if seen is None else seen[0])
        if seen is not None:
            found[_label(seen[1])] += 1
    return Delay(
        change.name,
        float(np.mean(outside)),
        runs,
        found.total(),
        float(np.median(delays)),
        float(np.quantile(delays, 0.9)),
        limit,
        dict(found),
    )


def markdown(still: Quiet, delays: Iterable[Delay]) -> str:
    """The tables of the report."""
    alarmed = (
        f"Without a change: {still.alarmed} of {still.runs} runs of {still.requests:,} requests "
        f"alarmed (95 % interval {still.low:.1%} to {still.high:.1%}"
        f"{'; ' + _counts(still.by) if still.by else ''})."
    )
    heads = (
        "change",
        "out of scope among kept",
        "seen",
        "requests until the alarm: median",
        "9 in 10 within",
        "by",
    )
    lines = [alarmed, "", f"| {' | '.join(heads)} |", "|---|---:|---:|---:|---:|---|"]
    for one in delays:
        last = f"{one.ninth:,.0f}" if one.ninth < one.limit else f"more than {one.limit:,}"
        middle = f"{one.median:,.0f}" if one.median < one.limit else f"more than {one.limit:,}"
        cells = (
            one.change,
            f"{one.kept_outside:.1%}",
            f"{one.seen} of {one.runs}",
            middle,
            last,
            _counts(one.by),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _label(alarm: Alarm) -> str:
    return f"{alarm.signal} {alarm.method}"


def _counts(by: dict[str, int]) -> str:
    ranked = sorted(by.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{name} {count}" for name, count in ranked) or "-"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--requests", type=int, default=10_000, help="of a run without a change")
    parser.add_argument("--limit", type=int, default=4000, help="requests watched after a change")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    still = quiet(asked.runs, asked.requests, asked.seed)
    delays = [delay(one, asked.runs, asked.limit, asked.seed + 1) for one in CHANGES]
    text = markdown(still, delays)
    print(text)
    if asked.markdown is not None:
        asked.markdown.write_text(text, encoding="utf-8")
    if asked.json is not None:
        figures = {
            "machine": describe_machine(),
            "quiet": asdict(still),
            "delays": [asdict(one) for one in delays],
        }
        asked.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
