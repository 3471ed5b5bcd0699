"""The last requests, in memory: what the box's page shows of its traffic. Pure.

Rules
- No text of anybody is kept: who answered, why, how long, what it cost.
- Bounded: the newest requests, and of these only what falls into the window.
- A caller with a key sees its own tenant's requests; see `of`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WINDOW_S = 300.0
BUCKETS = 60
KEPT = 20_000
LISTED = 30
REFUSED = "refused"
TIERS = ("cache", "local", "frontier", REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One question that ended. `at_s` and `seconds` are of one monotonic clock."""

    at_s: float
    route: str
    model: str
    tenant: str
    tier: str
    reason: str
    answered_by: str
    seconds: float
    cost: float = 0.0
    saved: float = 0.0
    joules: float = 0.0
    degraded: bool = False


@dataclass(slots=True)
class Recent:
    """Ring of `Seen`, oldest first."""

    ring: deque[Seen] = field(default_factory=lambda: deque(maxlen=KEPT))
    total: Counter[str] = field(default_factory=Counter)

    def note(self, seen: Seen) -> None:
        """Keep one. Microseconds."""
        self.ring.append(seen)
        self.total[seen.tier] += 1

    def of(self, tenant: str | None) -> list[Seen]:
        """What a tenant may see; None sees all."""
        return [one for one in self.ring if tenant is None or one.tenant == tenant]


def summary(seen: Sequence[Seen], now_s: float) -> dict[str, Any]:
    """Rates, latency, money and energy of the window, and its course in buckets.

    Shares are of answered questions; latency in milliseconds, of answered questions; cost and
    joules are means a question, refusals included, as they cost too.
    """
    window = [one for one in seen if now_s - one.at_s <= WINDOW_S]
    answered = [one for one in window if one.tier != REFUSED]
    tiers = Counter(one.tier for one in window)
    local = [one for one in answered if one.tier != "frontier"]
    return {
        "window_s": WINDOW_S,
        "questions": len(window),
        "per_second": round(len(window) / WINDOW_S, 3),
        "tiers": {name: tiers.get(name, 0) for name in TIERS},
        "reasons": dict(Counter(one.reason or "-" for one in window).most_common(12)),
        "escalation_rate": _share(tiers.get("frontier", 0), len(answered)),
        "cache_hit_rate": _share(tiers.get("cache", 0), len(answered)),
        "degraded": sum(one.degraded for one in window),
        "latency_ms": latency_ms(answered),
        "latency_here_ms": latency_ms(local),
        "cost_per_task": _mean([one.cost for one in window]),
        "joules_per_task": _mean([one.joules for one in window]),
        "saved": sum(one.saved for one in window),
        "buckets": buckets(window, now_s),
    }


def buckets(window: Iterable[Seen], now_s: float) -> list[dict[str, int]]:
    """Questions by tier in `BUCKETS` equal parts of the window, oldest first."""
    width = WINDOW_S / BUCKETS
    found: list[dict[str, int]] = [dict.fromkeys(TIERS, 0) for _ in range(BUCKETS)]
    for one in window:
        back = min(int((now_s - one.at_s) / width), BUCKETS - 1)
        found[BUCKETS - 1 - max(back, 0)][one.tier] += 1
    return found


def latency_ms(answered: Sequence[Seen]) -> dict[str, float | None]:
    """Percentiles of the whole time, as the caller waited."""
    if not answered:
        return {"p50": None, "p95": None, "p99": None}
    values = np.quantile([one.seconds * 1000 for one in answered], (0.5, 0.95, 0.99))
    return dict(zip(("p50", "p95", "p99"), (round(float(v), 2) for v in values), strict=True))


def listed(seen: Sequence[Seen], now_s: float) -> list[dict[str, Any]]:
    """The newest, newest first."""
    return [
        {
            "ago_s": round(max(0.0, now_s - one.at_s), 1),
            "route": one.route,
            "model": one.model,
            "tier": one.tier,
            "reason": one.reason,
            "answered_by": one.answered_by,
            "ms": round(one.seconds * 1000, 1),
            "cost": one.cost,
            "joules": one.joules,
            "degraded": one.degraded,
        }
        for one in list(seen)[: -LISTED - 1 : -1]
    ]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
