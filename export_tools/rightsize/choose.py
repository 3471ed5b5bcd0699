"""The smallest candidate that is good enough, and why. Pure.

Rules
- All candidates answered the same texts, so they are compared in pairs: only texts that exactly
  one of two answered right say anything about their difference.
- `margin`: a candidate is good enough when it is shown to lose at most that against every other
  one. The upper bound of its loss is that of the share it alone got wrong less the lower bound of
  the share it alone got right (Clopper and Pearson, each at half the level).
- `floor`: a candidate is good enough when the lower bound of its quality reaches the floor.
- The chance that anything is called good enough that is not is at most `delta`, whatever the
  number of candidates: under a margin the best one is never wrong, so delta is divided among the
  others; against each of them a candidate has to pass, which needs no further division.
- Between candidates that are good enough the data decide nothing: the smallest is taken.
- Not shown to be good enough is not worse: `UNDECIDED` asks for more data, `WORSE` is shown.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_runtime.stats.clopper_pearson import lower_bound, p_value, upper_bound

Errors = npt.NDArray[np.bool_]


class Standing(enum.StrEnum):
    """What is shown about a candidate."""

    GOOD = "good enough"
    UNDECIDED = "undecided"
    WORSE = "worse"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is good enough: a floor, or else at most `margin` below every other candidate."""

    margin: float = 0.01
    floor: float | None = None
    delta: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ValueError(f"delta lies in (0, 1), not {self.delta}")
        if not 0 <= self.margin < 1 or (self.floor is not None and not 0 < self.floor < 1):
            raise ValueError("margin and floor are shares: give numbers from 0 to 1")


@dataclass(frozen=True, slots=True)
class Pair:
    """A candidate against another: texts that only one of them got right."""

    lost: int
    won: int
    loss: float
    """Share of all texts: lost less won."""
    bound: float
    """Upper bound of the true loss."""
    p: float
    """Two-sided exact McNemar test that both are equally good."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One candidate: quality with its two-sided interval, against the best observed, verdict."""

    quality: float
    low: float
    high: float
    against_best: Pair
    standing: Standing


@dataclass(frozen=True, slots=True)
class Choice:
    """Indices into the candidates. `chosen` is None when nothing is shown to be good enough."""

    judged: tuple[Judged, ...]
    best: int
    chosen: int | None
    why: str = ""


def choose(
    names: Sequence[str], errors: Sequence[Errors], sizes: Sequence[float], wanted: Wanted
) -> Choice:
    """Judge candidates by their errors [n] on the same n texts; `sizes` is what should be small.

    Raises `ValueError` when there is nothing to judge or the lengths differ.
    """
    rows = np.array(errors, bool)
    if rows.ndim != 2 or not rows.size or not len(names) == len(rows) == len(sizes):
        raise ValueError("needs candidates with as many verdicts each, at least one")
    wrong = rows.sum(axis=1)
    # The first of the equally good ones in the order of size: a tie is no reason to grow.
    best = min(range(len(rows)), key=lambda at: (wrong[at], sizes[at]))
    judged = tuple(_judged(rows, at, best, wanted) for at in range(len(rows)))
    good = [at for at, one in enumerate(judged) if one.standing is Standing.GOOD]
    chosen = min(good, key=lambda at: sizes[at]) if good else None
    found = Choice(judged, best, chosen)
    return replace(found, why=_why(names, found, wanted, rows.shape[1]))


def paired(candidate: Errors, other: Errors, delta: float) -> Pair:
    """How much a candidate loses against another on the same texts, at confidence 1 - delta."""
    n = len(candidate)
    lost = int((candidate & ~other).sum())
    won = int((other & ~candidate).sum())
    bound = upper_bound(lost, n, delta / 2) - lower_bound(won, n, delta / 2)
    few, discordant = min(lost, won), lost + won
    p = min(1.0, 2 * p_value(few, discordant, 0.5)) if discordant else 1.0
    return Pair(lost, won, (lost - won) / n, bound, p)


def _judged(rows: npt.NDArray[np.bool_], at: int, best: int, wanted: Wanted) -> Judged:
    count, n = rows.shape
    wrong = int(rows[at].sum())
    low = 1 - upper_bound(wrong, n, wanted.delta / 2)
    high = 1 - lower_bound(wrong, n, wanted.delta / 2)
    if wanted.floor is not None:
        share = wanted.delta / count
        reaches = 1 - upper_bound(wrong, n, share) >= wanted.floor
        misses = 1 - lower_bound(wrong, n, share) < wanted.floor
    else:
        share = wanted.delta / max(1, count - 1)
        pairs = [paired(rows[at], rows[other], share) for other in range(count) if other != at]
        reaches = all(pair.bound <= wanted.margin for pair in pairs)
        misses = any(pair.loss > 0 and pair.p <= share for pair in pairs)
    standing = Standing.GOOD if reaches else Standing.WORSE if misses else Standing.UNDECIDED
    return Judged(1 - wrong / n, low, high, paired(rows[at], rows[best], share), standing)


def _why(names: Sequence[str], found: Choice, wanted: Wanted, n: int) -> str:
    judged, best, chosen = found.judged, found.best, found.chosen
    rule = (
        f"quality of at least {wanted.floor:.1%}"
        if wanted.floor is not None
        else f"a loss of at most {wanted.margin:.1%} against every other"
    )
    sure = f"at confidence {1 - wanted.delta:.0%} over all {len(names)} candidates, {n} texts"
    if chosen is None:
        return (
            f"nothing is chosen: no candidate is shown to have {rule} {sure}; the best observed is "
            f"{names[best]} with {judged[best].quality:.1%}: add data, or ask for less"
        )
    smaller = [
        f"{name} is {one.standing}"
        for name, one in zip(names, judged, strict=True)
        if one.standing is not Standing.GOOD
    ]
    rest = f"; {', '.join(smaller)}" if smaller else ""
    return f"{names[chosen]}: the smallest that is shown to have {rule}, {sure}{rest}"
