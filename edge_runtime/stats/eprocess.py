"""A claim that may be looked at after every observation: betting against a rate.

Starting with a capital of 1, bet on "the rate is above p0" at odds that are fair or worse when
it is not. Capital then has no reason to grow: by Ville's inequality it reaches 1/a at any time,
ever, with probability at most a. So an alarm at 1/a is a claim at level a, however often and
whenever one looks (Shafer, JRSS A 184, 2021; Waudby-Smith and Ramdas, JRSS B 86, 2024).

Rules
- One-sided: evidence that the mean of observations in [0, 1] exceeds `p0`.
- The capital is split evenly over bets, each tuned to one larger rate: no guess of the true one
  is needed, and what the wrong bets lose is at most ln(number of bets).
- The promise needs a `p0` that is true, not one estimated from few data: take an upper bound.
- An alarm stays; evidence that was seen is not unseen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

ODDS = (1.25, 1.5, 2.0, 3.0, 5.0, 9.0)
"""Alternatives that are bet on, as multiples of the odds of `p0`."""


@dataclass(slots=True)
class BettingProcess:
    """Watches for a mean above `p0`; `level` is the chance of ever alarming falsely.

    `log_capitals` (one a bet) and `peak` are the whole state, for a restart.
    """

    p0: float
    level: float
    odds: Sequence[float] = ODDS
    log_capitals: list[float] = field(default_factory=list)
    peak: float = 0.0
    _stakes: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises `ValueError` for rates or levels outside (0, 1), or odds not above 1."""
        if not (0 < self.p0 < 1 and 0 < self.level < 1):
            raise ValueError(f"needs 0 < p0, level < 1, not p0={self.p0}, level={self.level}")
        if not self.odds or not all(1 < ratio < math.inf for ratio in self.odds):
            raise ValueError(f"bets are on odds above 1, not {list(self.odds)}")
        if not self.log_capitals:
            self.log_capitals = [0.0] * len(self.odds)
        if len(self.log_capitals) != len(self.odds) or any(map(math.isnan, self.log_capitals)):
            raise ValueError("the state belongs to other bets")
        # Tuned to p1, the factor 1 + stake * (x - p0) is the likelihood ratio of p1 to p0.
        self._stakes = [
            (p1 - self.p0) / (self.p0 * (1 - self.p0)) for p1 in alternatives(self.p0, self.odds)
        ]

    def observe(self, value: float) -> bool:
        """Take one observation in [0, 1] (0 or 1 for events); True from the first alarm on."""
        if not 0 <= value <= 1:
            raise ValueError(f"an observation lies in [0, 1], not {value}")
        for at, stake in enumerate(self._stakes):
            self.log_capitals[at] += math.log1p(stake * (value - self.p0))
        self.peak = max(self.peak, self.log_capital)
        return self.alarmed

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the evidence: the mean over the bets. 0 at the start."""
        top = max(self.log_capitals)
        total = sum(math.exp(value - top) for value in self.log_capitals)
        return top + math.log(total / len(self.log_capitals))

    @property
    def alarmed(self) -> bool:
        """Whether the evidence ever reached 1 / level."""
        return self.peak >= -math.log(self.level)


def alternatives(p0: float, odds: Sequence[float] = ODDS) -> tuple[float, ...]:
    """The rates whose odds are these multiples of those of `p0`."""
    return tuple(ratio * p0 / (1 - p0 + ratio * p0) for ratio in odds)
