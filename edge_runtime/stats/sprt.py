"""Whether a new model is worse than the old one on the same requests.

Only discordant pairs count, in which exactly one of the two was right. Were both equally good,
either would win a discordant pair with probability 1/2. Wald's sequential test weighs p = 1/2
against p = `loss_share`, the chance that the new one is the loser (Wald, Ann. Math. Stat. 16,
1945).

Rules
- FAIL (halt, revert) with probability at most about `false_halt` when both are equally good;
  PASS with at most about `missed` when the new one loses `loss_share` of discordant pairs.
- Valid at every look; the verdict is final, later pairs do not change it.
- It compares on the requests it saw: on other traffic it says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edge_runtime.stats.verdict import Verdict


@dataclass(slots=True)
class PairedSprt:
    """Sequential test over paired answers; `pairs`, `losses`, `wins` are what it saw.

    A drop of d with a share c of discordant pairs means `loss_share` = (c + d) / 2c: 2/3 is a
    2-point drop at 6 % discordance.
    """

    loss_share: float = 2 / 3
    false_halt: float = 0.05
    missed: float = 0.10
    pairs: int = 0
    losses: int = 0
    wins: int = 0
    verdict: Verdict = Verdict.INSUFFICIENT
    _upper: float = field(init=False, repr=False)
    _lower: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises `ValueError` unless 1/2 < loss_share < 1 and the risks make a test."""
        if not 0.5 < self.loss_share < 1:
            raise ValueError(f"loss_share lies between 1/2 and 1, not {self.loss_share}")
        if not (self.false_halt > 0 and self.missed > 0 and self.false_halt + self.missed < 1):
            raise ValueError("false_halt and missed are above 0 and together below 1")
        self._upper, self._lower = boundaries(self.false_halt, self.missed)

    @property
    def log_ratio(self) -> float:
        """Logarithm of the likelihood ratio: positive when the new one looks worse."""
        win = math.log(2 * (1 - self.loss_share))
        return self.losses * math.log(2 * self.loss_share) + self.wins * win

    def observe(self, *, old_right: bool, new_right: bool) -> Verdict:
        """Take one request that both answered; the verdict so far."""
        if self.verdict is not Verdict.INSUFFICIENT:
            return self.verdict
        self.pairs += 1
        self.losses += old_right and not new_right
        self.wins += new_right and not old_right
        if self.log_ratio >= self._upper:
            self.verdict = Verdict.FAIL
        elif self.log_ratio <= self._lower:
            self.verdict = Verdict.PASS
        return self.verdict


def boundaries(false_halt: float, missed: float) -> tuple[float, float]:
    """Wald's boundaries of the log likelihood ratio: (halt at or above, pass at or below)."""
    return math.log((1 - missed) / false_halt), math.log(missed / (1 - false_halt))
