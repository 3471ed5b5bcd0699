"""The loosest threshold that keeps the error of what is kept below alpha.

Promise: P( P(error | score >= threshold) > alpha ) <= delta, over the draw of the calibration
set, for later inputs drawn like it.

Rules
- Fixed sequence testing (Learn-Then-Test, Angelopoulos et al., arXiv 2110.01052): thresholds are
  walked from strict to loose, each tested at the full delta, and the walk ends at the first
  failure. The last one that passed is certified; a later one that would pass is not looked at.
- Where the walk begins and its stride are numbers of kept samples that follow from n, alpha and
  delta alone: nothing is chosen by looking at errors.
- A threshold that keeps the top j samples lies just above sample j + 1, which is not among the
  kept. Given that sample, the j above it are a plain sample of what the threshold keeps, so
  their errors are binomial and the bound of Clopper and Pearson is exact.
- Equal scores are kept or escalated together.
- No threshold passed: nothing is certified, and everything has to escalate.

Choosing the loosest threshold whose observed error is below alpha looks alike and promises
nothing: it breaks alpha about every other time (docs/benchmarks/certificates.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.stats.clopper_pearson import p_value, upper_bound

START_COVERAGE = 0.30
START_SLACK = 1.5
STRIDE = 0.01


@dataclass(frozen=True, slots=True)
class Step:
    """One tested threshold: `kept` samples at or above it, `errors` among them."""

    threshold: float
    kept: int
    errors: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Certified:
    """The outcome of a walk: k errors among the n samples that `threshold` keeps.

    `upper` is the bound of the error among kept inputs at confidence 1 - delta, <= alpha.
    `coverage` is n over all samples.
    """

    threshold: float
    n: int
    k: int
    coverage: float
    upper: float


@dataclass(frozen=True, slots=True)
class Walk:
    """All tests made, the failed last one included; `certified` None when none passed."""

    samples: int
    start: int
    steps: tuple[Step, ...]
    certified: Certified | None


def smallest_sample(alpha: float, delta: float) -> float:
    """n0 = ln(delta) / ln(1 - alpha): fewer kept samples prove nothing, even without an error."""
    if not (0 < alpha < 1 and 0 < delta < 1):
        raise ValueError(f"alpha and delta lie between 0 and 1, not {alpha} and {delta}")
    return math.log(delta) / math.log1p(-alpha)


def first_kept(samples: int, alpha: float, delta: float) -> int:
    """How many samples the strictest tested threshold keeps; may exceed `samples`.

    A walk from the very strictest threshold would fail at once: a handful of samples cannot
    reach n0.
    """
    wanted = max(START_COVERAGE * samples, START_SLACK * smallest_sample(alpha, delta))
    return math.ceil(wanted)


def learn_then_test(
    scores: npt.ArrayLike, errors: npt.ArrayLike, *, alpha: float, delta: float
) -> Walk:
    """Walk the thresholds of a calibration set and certify the loosest that may be trusted.

    `scores` [n] in [0, 1], higher means surer; `errors` [n] of 0 or 1, 1 where the answer was
    wrong. Costs a sort and at most 71 binomial tails. Raises `ValueError` for other shapes
    or values.
    """
    ordered, cumulative = _ordered(scores, errors)
    samples = len(ordered)
    start = first_kept(samples, alpha, delta)
    steps: list[Step] = []
    certified: Certified | None = None
    for kept in _grid(ordered, start):
        threshold = 0.0 if kept == samples else math.nextafter(float(ordered[kept]), math.inf)
        k = int(cumulative[kept - 1])
        steps.append(Step(threshold, kept, k, p_value(k, kept, alpha)))
        if steps[-1].p_value > delta:
            break
        certified = Certified(threshold, kept, k, kept / samples, upper_bound(k, kept, delta))
    return Walk(samples, start, tuple(steps), certified)


def _ordered(
    scores: npt.ArrayLike, errors: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Scores from high to low, and the errors counted along them."""
    values = np.asarray(scores, np.float64)
    wrong = np.asarray(errors, np.int64)
    if values.ndim != 1 or values.shape != wrong.shape or not len(values):
        raise ValueError(f"needs as many scores as errors, not {values.shape}, {wrong.shape}")
    if not bool(np.all((values >= 0) & (values <= 1))):  # also refuses NaN
        raise ValueError("scores must lie in [0, 1]")
    if not bool(np.all((wrong == 0) | (wrong == 1))):
        raise ValueError("errors must be 0 or 1")
    order = np.argsort(-values, kind="stable")
    return values[order], np.cumsum(wrong[order])


def _grid(ordered: npt.NDArray[np.float64], start: int) -> list[int]:
    """Rising numbers of kept samples, each moved down the list to where equal scores end."""
    samples = len(ordered)
    if start > samples:
        return []
    stride = max(1, math.ceil(STRIDE * samples))
    wanted = [*range(start, samples, stride), samples]
    ends = np.searchsorted(-ordered, -ordered[np.array(wanted) - 1], side="right")
    return sorted({int(end) for end in ends})
