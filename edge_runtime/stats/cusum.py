"""A fast alarm for a rate that rises: the Bernoulli CUSUM.

S <- max(0, S + ln(likelihood ratio of the observation, p1 against p0)); alarm when S > h
(Page, Biometrika 41, 1954; Reynolds and Stoumbos, J. Quality Technology 31, 1999).

Rules
- It is quick and it promises no rate of false alarms for ever: every watch that goes on long
  enough alarms some day. For a claim use `eprocess`.
- An alarm stays until `reset`; the reader of an alarm decides what it means.
- Tuned for p0 = 10 %, p1 = 15 %, h = 6: a jump to 20 % is seen after about 150 observations, one
  to 15 % after about 390, and a false alarm comes once in more than 16,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class BernoulliCusum:
    """Watches observations of 0 and 1 whose rate should be `p0`; tuned to see `p1`.

    `statistic` and `alarmed` are the whole state: a restart that restores them goes on as if
    nothing had happened.
    """

    p0: float
    p1: float
    h: float = 6.0
    statistic: float = 0.0
    alarmed: bool = False
    _gain: float = field(init=False, repr=False)
    _loss: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises `ValueError` unless 0 < p0 < p1 < 1, h > 0 and the state is one of ours."""
        if not 0 < self.p0 < self.p1 < 1:
            raise ValueError(f"needs 0 < p0 < p1 < 1, not p0={self.p0}, p1={self.p1}")
        if not (self.h > 0 and 0 <= self.statistic < math.inf):
            raise ValueError(f"needs h > 0, statistic >= 0, not {self.h}, {self.statistic}")
        self._gain = math.log(self.p1 / self.p0)
        self._loss = math.log((1 - self.p1) / (1 - self.p0))

    def observe(self, happened: bool) -> bool:
        """Take one observation; True from the first alarm on."""
        self.statistic = max(0.0, self.statistic + (self._gain if happened else self._loss))
        self.alarmed = self.alarmed or self.statistic > self.h
        return self.alarmed

    def reset(self) -> None:
        """Start again, after an alarm was handled."""
        self.statistic, self.alarmed = 0.0, False
