"""Did a change harm the boxes that got it? Difference in differences, valid at every look.

Each changed box is paired with a control box that did not change. Of both, the figure after is
taken minus the figure before; the pair's value is the changed box's difference minus the
control's. What moved all boxes alike, a holiday or a new fashion in questions, drops out.

Rules
- The box is the unit. Requests of one box resemble each other; counted one by one they alarm
  falsely about one time in three.
- A pair's value is symmetric about the true effect: exactly so when the change does nothing,
  since then either box could as well have been the changed one. Under symmetry
  exp(g z - g^2 z^2 / 2) has mean at most 1 (de la Pena, Ann. Probab. 27, 1999), so capital that
  grows by it is evidence by Ville's inequality, with no other assumption on shape or spread.
- FAIL: the effect is below -`tolerance`, with an error of at most `fail_level` ever.
  PASS: it is above -`tolerance`, with at most `pass_level` ever. Else INSUFFICIENT: hold.
- FAIL is final; PASS may still turn into FAIL when later boxes show harm.
- Figures are such that more is better and a difference is of the order 0.001 to 1: shares and
  rates as they are, costs and latencies as the negative logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_runtime.stats.verdict import Verdict

STAKES = tuple(2.0**power for power in range(10))
"""Bets 1 to 512 in units of 1 / effect: the best one for effect d, spread s is d/(d^2 + s^2)."""


@dataclass(slots=True)
class DifferenceInDifferences:
    """Sequential non-inferiority over pairs of boxes; the two lists of logs are the state."""

    tolerance: float
    fail_level: float = 0.05
    pass_level: float = 0.05
    stakes: Sequence[float] = STAKES
    pairs: int = 0
    harm: list[float] = field(default_factory=list)
    safe: list[float] = field(default_factory=list)
    failed: bool = False
    passed: bool = False

    def __post_init__(self) -> None:
        """Raises `ValueError` for a negative tolerance, levels outside (0, 1), bad stakes."""
        if not (self.tolerance >= 0 and 0 < self.fail_level < 1 and 0 < self.pass_level < 1):
            raise ValueError("needs tolerance >= 0 and levels between 0 and 1")
        if not self.stakes or not all(0 < stake < math.inf for stake in self.stakes):
            raise ValueError(f"stakes are above 0, not {list(self.stakes)}")
        self.harm = self.harm or [0.0] * len(self.stakes)
        self.safe = self.safe or [0.0] * len(self.stakes)
        if len(self.harm) != len(self.stakes) or len(self.safe) != len(self.stakes):
            raise ValueError("the state belongs to other stakes")

    def observe(self, *, changed: tuple[float, float], control: tuple[float, float]) -> Verdict:
        """Take one pair of boxes, each as (before, after); the verdict so far.

        Each box may be in one pair only, and pairs are made without looking at figures.
        """
        value = (changed[1] - changed[0]) - (control[1] - control[0]) + self.tolerance
        if not math.isfinite(value):
            raise ValueError(f"figures are numbers, not {changed} and {control}")
        self.pairs += 1
        for at, stake in enumerate(self.stakes):
            penalty = (stake * value) ** 2 / 2
            self.harm[at] -= stake * value + penalty
            self.safe[at] += stake * value - penalty
        self.failed = self.failed or self.harm_evidence >= -math.log(self.fail_level)
        self.passed = self.passed or self.safe_evidence >= -math.log(self.pass_level)
        return self.verdict

    @property
    def harm_evidence(self) -> float:
        """Natural logarithm of the evidence now that the effect is below -`tolerance`."""
        return _log_mean(self.harm)

    @property
    def safe_evidence(self) -> float:
        """Natural logarithm of the evidence now that the effect is above -`tolerance`."""
        return _log_mean(self.safe)

    @property
    def verdict(self) -> Verdict:
        """Harm outranks safety."""
        if self.failed:
            return Verdict.FAIL
        return Verdict.PASS if self.passed else Verdict.INSUFFICIENT


def _log_mean(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs) / len(logs))
