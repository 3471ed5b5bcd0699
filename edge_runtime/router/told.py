"""What a caller is told of who answered and why: headers, and the body's `edge` field.

Rules
- Both come from one `Told`, and its cost from the same rows the ledger keeps.
- A refusal that cost something, or was decided by the router, is told as well: without
  `answered_by`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.ledger.rows import JouleSource
from edge_runtime.router.booking import Bill, money

MIXED = "mixed"


@dataclass(slots=True)
class Told:
    """One question's answer, or its refusal. Empty texts are not told.

    `certificate` is the digest of the one that judged. `detail` says for people why no
    certificate held, or why no frontier answered.
    """

    bill: Bill
    tier: str = ""
    reason: str = ""
    answered_by: str = ""
    cache: str = "off"
    cache_key: str = ""
    certificate: str = ""
    score: float | None = None
    threshold: float | None = None
    degraded: bool = False
    detail: str = ""
    timings: dict[str, Any] = field(default_factory=dict)

    def answered(self, *, tier: str, reason: str, by: str) -> None:
        """The question is decided."""
        self.tier, self.reason, self.answered_by = tier, reason, by

    @property
    def worth_telling(self) -> bool:
        """Whether a refusal has anything to say besides its message."""
        return bool(self.bill.entries) or bool(self.reason and not self.answered_by)

    def headers(self, *, answered: bool = True) -> dict[str, str]:
        """The `x-edge-*` headers of an answer or a refusal."""
        found = {"x-edge-cache": self.cache}
        if answered and self.answered_by:
            found["x-edge-answered-by"] = self.answered_by
            found["x-edge-tier"] = self.tier
            found["x-edge-certificate"] = self.certificate or "none"
        if self.reason:
            found["x-edge-reason"] = self.reason
        if self.cache_key:
            found["x-edge-cache-key"] = self.cache_key
        if self.degraded:
            found["x-edge-degraded"] = "true"
        return found

    def body(self, timings: dict[str, Any] | None = None) -> dict[str, Any]:
        """The `edge` field."""
        return {
            "answered_by": self.answered_by or None,
            "tier": self.tier or None,
            "reason": self.reason or None,
            "degraded": self.degraded,
            "score": self.score,
            "threshold": self.threshold,
            "certificate": self.certificate or None,
            "cache": self.cache,
            "detail": self.detail or None,
            **self.bill.field(),
            "timings": self.timings if timings is None else timings,
        }


def summed(ones: Sequence[Told], timings: dict[str, Any]) -> dict[str, Any]:
    """The `edge` field of a request of several questions: `mixed` where they differ."""
    if len(ones) == 1:
        return ones[0].body(timings)
    bills = [one.bill for one in ones]
    sources = [source for bill in bills for source in bill.sources]
    order = list(JouleSource)
    return {
        "answered_by": _same([one.answered_by for one in ones]),
        "tier": _same([one.tier for one in ones]),
        "reason": _same([one.reason for one in ones]),
        "degraded": any(one.degraded for one in ones),
        "score": None,
        "threshold": _same_number([one.threshold for one in ones]),
        "certificate": _same([one.certificate for one in ones]) or None,
        "cache": _same([one.cache for one in ones]),
        "detail": None,
        "cost": money(sum(bill.cost_nano for bill in bills)),
        "currency": bills[0].till.currency,
        "saved": money(sum(bill.saved_nano for bill in bills)),
        "joules": sum(bill.energy_uj for bill in bills) / 1e6,
        "joules_source": str(max(sources, key=order.index, default=JouleSource.NONE)),
        "attempts": [entry for bill in bills for entry in bill.told],
        "timings": timings,
    }


def summed_headers(ones: Sequence[Told]) -> dict[str, str]:
    """The headers of a request of several questions."""
    if len(ones) == 1:
        return ones[0].headers()
    found = {
        "x-edge-answered-by": _same([one.answered_by for one in ones]),
        "x-edge-tier": _same([one.tier for one in ones]),
        "x-edge-reason": _same([one.reason for one in ones]),
        "x-edge-certificate": _same([one.certificate for one in ones]) or "none",
        "x-edge-cache": _same([one.cache for one in ones]),
    }
    if any(one.degraded for one in ones):
        found["x-edge-degraded"] = "true"
    return found


def _same(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else MIXED


def _same_number(values: Sequence[float | None]) -> float | None:
    return values[0] if len(set(values)) == 1 else None
