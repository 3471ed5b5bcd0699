"""Audits of one model's hits, counted, and whether they contradict the certificate. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.cache.semantic.contract import Audited
from edge_runtime.stats.clopper_pearson import upper_bound
from edge_runtime.stats.eprocess import BettingProcess

SHOWN_DELTA = 0.05


@dataclass(slots=True)
class Tally:
    """Counts of audits. Suspended once the betting process says: more than alpha are wrong."""

    n: int
    wrong: int
    process: BettingProcess

    @classmethod
    def new(cls, alpha: float, level: float) -> Tally:
        """No audits yet."""
        return cls(0, 0, BettingProcess(alpha, level))

    @property
    def suspended(self) -> bool:
        """True once audits contradict the certificate."""
        return self.process.alarmed

    def observe(self, *, wrong: bool) -> None:
        """One audit more."""
        self.n += 1
        self.wrong += wrong
        self.process.observe(float(wrong))

    def shown(self) -> Audited:
        """As callers see it."""
        upper = upper_bound(self.wrong, self.n, SHOWN_DELTA) if self.n else 1.0
        return Audited(self.n, self.wrong, upper, self.suspended)
