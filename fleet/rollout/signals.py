"""What a guard may speak of: events of a box, and figures of a box over a stretch of time.

Rules
- Events are facts about one box and one change; once true they stay true.
- Figures are made of sums a box reported. Where the sum below a fraction is 0, the figure is not
  there; a guard then has no answer for that box, which is not the same as a good one.
- Expressions of guards may use these names and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Figures = Mapping[str, float]
"""Sums and quantiles of one box over one window, by the names of `MEASURED`."""


class Event:
    """Names of the events of a box that safety guards speak of."""

    CRASHED: Final = "crashed"
    REVERTED: Final = "reverted"
    REFUSED: Final = "refused"
    STUCK: Final = "stuck"
    FAILED: Final = "failed"
    UNREACHABLE: Final = "unreachable"


EVENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        Event.CRASHED: "The daemon or its engine ended unasked with the change in service.",
        Event.REVERTED: "The box took the change back by itself.",
        Event.REFUSED: "It did not load, or answered its golden inputs wrong.",
        Event.STUCK: "Neither the new nor the old one serves as wanted.",
        Event.FAILED: "The box gave the change up for any reason but an order or a deadline.",
        Event.UNREACHABLE: "The box began with the change and was not heard of for too long.",
    }
)

MEASURED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "requests": "answered requests",
        "errors": "requests that failed on the box's side",
        "escalations": "requests handed to the frontier",
        "schema_checked": "answers that had to fit a schema",
        "schema_valid": "answers that fitted it",
        "cache_lookups": "requests looked up in a response cache",
        "cache_hits": "requests answered from one",
        "output_tokens": "sampled tokens",
        "busy_s": "seconds inside model runs",
        "p50_s": "seconds of a request, median",
        "p95_s": "seconds of a request, 95th percentile",
        "cost_usd": "money spent on attempts of all tiers",
        "joules": "energy the ledger booked",
        "tasks_resolved": "tasks that ended resolved",
    }
)


@dataclass(frozen=True, slots=True)
class Derived:
    """A fraction of two measured names."""

    over: str
    under: str
    meaning: str


DERIVED: Final[Mapping[str, Derived]] = MappingProxyType(
    {
        "escalation_rate": Derived("escalations", "requests", "share of requests escalated"),
        "error_rate": Derived("errors", "requests", "share of requests that failed"),
        "schema_valid_rate": Derived("schema_valid", "schema_checked", "share that fitted"),
        "cache_hit_rate": Derived("cache_hits", "cache_lookups", "share answered from a cache"),
        "tokens_per_s": Derived("output_tokens", "busy_s", "sampled tokens a busy second"),
        "cost_per_task": Derived("cost_usd", "tasks_resolved", "money a resolved task"),
        "joules_per_task": Derived("joules", "tasks_resolved", "energy a resolved task"),
    }
)

EVENT_NAMES: Final[Mapping[str, type]] = MappingProxyType(dict.fromkeys(EVENTS, bool))
FIGURE_NAMES: Final[Mapping[str, type]] = MappingProxyType(
    dict.fromkeys((*MEASURED, *DERIVED), float)
)


@dataclass(frozen=True, slots=True)
class QualityDefault:
    """What a quality guard named after a known figure is, as far as the plan leaves it open."""

    figure: str
    better: Literal["higher", "lower"]
    scale: Literal["difference", "ratio"]
    tolerance: float
    least: str
    least_count: float


QUALITY_DEFAULTS: Final[Mapping[str, QualityDefault]] = MappingProxyType(
    {
        default.figure: default
        for default in (
            QualityDefault("escalation_rate", "lower", "difference", 0.01, "requests", 100),
            QualityDefault("error_rate", "lower", "difference", 0.01, "requests", 100),
            QualityDefault("schema_valid_rate", "higher", "difference", 0.02, "schema_checked", 50),
            QualityDefault("cache_hit_rate", "higher", "difference", 0.05, "cache_lookups", 100),
            QualityDefault("tokens_per_s", "higher", "ratio", 0.10, "output_tokens", 1000),
            QualityDefault("p95_s", "lower", "ratio", 0.20, "requests", 100),
            QualityDefault("cost_per_task", "lower", "ratio", 0.10, "tasks_resolved", 50),
            QualityDefault("joules_per_task", "lower", "ratio", 0.15, "tasks_resolved", 50),
        )
    }
)


def with_derived(window: Figures) -> dict[str, float]:
    """The measured names of a window together with the fractions that can be made of them."""
    found = {name: float(value) for name, value in window.items() if name in MEASURED}
    for name, part in DERIVED.items():
        under = found.get(part.under, 0.0)
        if part.over in found and under > 0:
            found[name] = found[part.over] / under
    return found
