"""Evidence that a change harms too many boxes, while most of them are still being watched.

`BettingProcess` takes finished observations one after another. Boxes finish in no fair order: a
crash is known in seconds, that a box is well only after hours. Taken in the order in which they
finish, harm comes first and a good change looks bad. Here a box counts as unharmed from the
moment it is exposed, and is turned into a harmed one if it is.

Rules
- Null hypothesis: whatever happened before, a box that is exposed will be harmed with a
  probability of at most `p0`.
- The capital is, at every moment, at most the product over exposed boxes of the conditional
  expectation of (1 + stake (x - p0)), x being the box's final outcome: a box not harmed yet is
  booked with x = 0, the least that factor can be. That product is a supermartingale that starts
  at 1, so by Ville's inequality an alarm at 1 / level is false with probability at most `level`,
  however often and whenever one looks, and in whatever order outcomes come in.
- Boxes are exposed by a rule that does not look at their outcome. One that is first heard of when
  it is harmed already is exposed at that moment, and only if it would have been exposed as well
  had it been unharmed.
- A change may be good for most and bad for one kind of box. So a fifth of the capital is bet on
  each stratum by itself, in even parts; a mean of such processes is one again. It costs the whole
  ln(1 / 0.8) = 0.22 of log evidence. Strata are named before the first box is exposed.
- Harm is final, and so is an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_runtime.stats.eprocess import alternatives

BETS = ((1.5, 0.1), (4.0, 0.45), (8.0, 0.45))
"""Multiples of the odds of `p0` that are bet on, each with its share of the capital.

A change that is bad is usually much worse than its limit, and there are few boxes to see it on: so
nine tenths are on four and eight times the odds. The rest finds a small excess in a large fleet.
"""
WHOLE_WEIGHT = 0.8
"""Share of the capital that is bet on all boxes together, where there are strata."""


@dataclass(slots=True)
class ExposureProcess:
    """Watches the share of harmed boxes, over all and by stratum.

    With fewer than two `strata` all capital is on the whole. Boxes of a stratum that was not named
    count for the whole only. `counts` (exposed, harmed) and `peak` are the whole state.
    """

    p0: float
    level: float
    strata: Sequence[str] = ()
    bets: Sequence[tuple[float, float]] = BETS
    counts: dict[str | None, tuple[int, int]] = field(default_factory=dict)
    peak: float = 0.0
    _logs: dict[str | None, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises `ValueError` for rates or levels outside (0, 1), bad bets, or bad counts."""
        if not (0 < self.p0 < 1 and 0 < self.level < 1):
            raise ValueError(f"needs 0 < p0, level < 1, not p0={self.p0}, level={self.level}")
        on_more = all(1 < ratio < math.inf and share > 0 for ratio, share in self.bets)
        if not on_more or not math.isclose(sum(share for _, share in self.bets), 1):
            raise ValueError(
                f"bets are on odds above 1 with shares that make 1, not {list(self.bets)}"
            )
        if len(set(self.strata)) != len(self.strata):
            raise ValueError("a stratum is named twice")
        if not all(0 <= harmed <= exposed for exposed, harmed in self.counts.values()):
            raise ValueError("cannot have harmed more boxes than were exposed")
        parts = self.strata if len(self.strata) > 1 else ()
        self._logs = {part: self._log_of(part) for part in (None, *parts)}

    @property
    def exposed(self) -> int:
        """Boxes exposed so far."""
        return self.counts.get(None, (0, 0))[0]

    @property
    def harmed(self) -> int:
        """Boxes harmed so far."""
        return self.counts.get(None, (0, 0))[1]

    def expose(self, stratum: str | None = None) -> bool:
        """One more box got the change; True when alarmed."""
        return self._count(stratum, 1, 0)

    def harm(self, stratum: str | None = None) -> bool:
        """One of the exposed boxes was harmed, for the first time; True when alarmed."""
        return self._count(stratum, 0, 1)

    def _count(self, stratum: str | None, exposed: int, harmed: int) -> bool:
        for part in {None, stratum}:
            old = self.counts.get(part, (0, 0))
            new = (old[0] + exposed, old[1] + harmed)
            if new[1] > new[0]:
                raise ValueError("more boxes harmed than exposed")
            self.counts[part] = new
            if part in self._logs:
                self._logs[part] = self._log_of(part)
        self.peak = max(self.peak, self.log_capital)
        return self.alarmed

    def _log_of(self, part: str | None) -> float:
        return log_evidence(*self.counts.get(part, (0, 0)), self.p0, self.bets)

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the evidence now; 0 at the start."""
        whole = self._logs[None]
        parts = [value for part, value in self._logs.items() if part is not None]
        if not parts:
            return whole
        each = math.log((1 - WHOLE_WEIGHT) / len(parts))
        return _log_sum([whole + math.log(WHOLE_WEIGHT), *(each + value for value in parts)])

    @property
    def alarmed(self) -> bool:
        """Whether the evidence ever reached 1 / level."""
        return self.peak >= -math.log(self.level)


def log_evidence(
    exposed: int, harmed: int, p0: float, bets: Sequence[tuple[float, float]] = BETS
) -> float:
    """Log evidence of `harmed` out of `exposed` boxes against a rate of at most `p0`."""
    rates = alternatives(p0, [ratio for ratio, _ in bets])
    return _log_sum(
        [
            math.log(share)
            + harmed * math.log(p1 / p0)
            + (exposed - harmed) * math.log((1 - p1) / (1 - p0))
            for p1, (_, share) in zip(rates, bets, strict=True)
        ]
    )


def harmed_until_alarm(
    exposed: int, p0: float, level: float, bets: Sequence[tuple[float, float]] = BETS
) -> int | None:
    """How many of `exposed` boxes must be harmed for an alarm; None when all would not do."""
    goal = -math.log(level)
    low, high = 0, exposed
    if log_evidence(exposed, high, p0, bets) < goal:
        return None
    while low < high:
        middle = (low + high) // 2
        if log_evidence(exposed, middle, p0, bets) >= goal:
            high = middle
        else:
            low = middle + 1
    return low


def _log_sum(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs))
