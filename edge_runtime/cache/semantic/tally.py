"""Audits of one model's hits, counted, and whether they contradict the certificate. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_runtime.cache.semantic.contract import Audited, SemanticLimits
from edge_runtime.stats.clopper_pearson import upper_bound
from edge_runtime.stats.eprocess import BettingProcess

SHOWN_DELTA = 0.05
Judged = tuple[str, str]


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


class Tallies:
    """The tallies of all models; `judged` names a model and the encoder that found its hits."""

    def __init__(self, known: Mapping[Judged, Tally] | None = None) -> None:
        self._known = dict(known or {})

    def suspended(self, judged: Judged) -> bool:
        """True while this model gets no hits."""
        return judged in self._known and self._known[judged].suspended

    def observe(self, judged: Judged, limits: SemanticLimits, *, wrong: bool) -> Tally:
        """One audit more; its tally after that."""
        tally = self._known.setdefault(judged, Tally.new(limits.alpha, limits.level))
        tally.observe(wrong=wrong)
        return tally

    def shown(self, judged: Judged) -> Audited:
        """As callers see it."""
        tally = self._known.get(judged)
        return Audited(0, 0, 1.0, suspended=False) if tally is None else tally.shown()

    def acquit(self, model_digest: str | None) -> list[Judged]:
        """Forget a model's audits, or all; whose."""
        gone = [judged for judged in self._known if model_digest in (None, judged[0])]
        for judged in gone:
            del self._known[judged]
        return gone
