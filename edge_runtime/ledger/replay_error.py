"""How many kept answers are wrong at a threshold, from what was compared. Pure.

Rules
- Wrong means: a frontier answered otherwise. Nobody compared means not known, never zero.
- What is kept at a threshold falls into two strata. Answers that were kept are known by audits, a
  random sample of them; answers that were escalated are known by the frontier's own answer.
- Bounds are exact in each stratum (Clopper and Pearson) at a share of delta, and add up weighted by
  the requests of the stratum: by the union bound the sum holds with 1 - delta.
- Audits are taken as evenly drawn within the while: a share that was changed in between weakens
  the estimate, and the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.stats.clopper_pearson import lower_bound, upper_bound

Scores = npt.NDArray[np.int64]
START_COVERAGE = 0.3
STEPS = 100


@dataclass(frozen=True, slots=True)
class Known:
    """Scores in ppm, each sorted, of one model and task.

    `kept`, `escalated`: requests as they were decided. `audited`, `compared`: those of each that
    were held against a frontier; `..._wrong` those that differed.
    """

    kept: Scores
    escalated: Scores
    audited: Scores
    audited_wrong: Scores
    compared: Scores
    compared_wrong: Scores
    shares_ppm: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Stratum:
    """Requests, those compared, those wrong."""

    requests: int
    compared: int
    wrong: int


@dataclass(frozen=True, slots=True)
class ErrorEstimate:
    """The error among what is kept; `low` and `high` are the two-sided interval."""

    error: float
    low: float
    high: float
    compared: int
    wrong: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """The loosest threshold shown to hold alpha, its bound, and the share of scored kept."""

    threshold_ppm: int
    bound: float
    coverage: float


def strata(known: Known, threshold_ppm: int | None) -> tuple[Stratum, ...]:
    """What is kept at a threshold; None: what was kept."""
    if threshold_ppm is None:
        return (Stratum(len(known.kept), len(known.audited), len(known.audited_wrong)),)

    def above(scores: Scores) -> int:
        return len(scores) - int(np.searchsorted(scores, threshold_ppm, side="left"))

    both = (
        Stratum(above(known.kept), above(known.audited), above(known.audited_wrong)),
        Stratum(above(known.escalated), above(known.compared), above(known.compared_wrong)),
    )
    return tuple(one for one in both if one.requests)


def estimate(parts: Sequence[Stratum], confidence: float = 0.95) -> ErrorEstimate | None:
    """The error over all strata; None where one of them was never compared, or all are empty."""
    total = sum(one.requests for one in parts)
    if not total or any(not one.compared for one in parts):
        return None
    tail = (1 - confidence) / 2 / len(parts)
    return ErrorEstimate(
        sum(one.requests * one.wrong / one.compared for one in parts) / total,
        sum(one.requests * lower_bound(one.wrong, one.compared, tail) for one in parts) / total,
        sum(one.requests * upper_bound(one.wrong, one.compared, tail) for one in parts) / total,
        sum(one.compared for one in parts),
        sum(one.wrong for one in parts),
        confidence,
    )


def bound(parts: Sequence[Stratum], delta: float) -> float:
    """The error is below this with confidence 1 - delta; 1 where nothing was compared."""
    total = sum(one.requests for one in parts)
    if not total or any(not one.compared for one in parts):
        return 1.0
    each = delta / len(parts)
    return sum(one.requests * upper_bound(one.wrong, one.compared, each) for one in parts) / total


def choose(known: Known, alpha: float, delta: float) -> Chosen | None:
    """The loosest threshold whose error is at most alpha with confidence 1 - delta.

    Learn-Then-Test by fixed sequence: at most `STEPS` quantiles of all scores, chosen without
    looking at errors, are walked from `START_COVERAGE` on until the first that fails.
    """
    scores = np.concatenate([known.kept, known.escalated])
    if not len(scores):
        return None
    shares = np.linspace(START_COVERAGE, 1.0, STEPS)
    chosen = None
    for threshold in dict.fromkeys(int(one) for one in np.quantile(scores, 1 - shares)):
        found = bound(strata(known, threshold), delta)
        if found > alpha:
            break
        coverage = float(np.mean(scores >= threshold))
        chosen = Chosen(threshold, found, coverage)
    return chosen
