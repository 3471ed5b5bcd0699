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


@dataclass(frozen=True, slots=True)
class Series:
    """Where a sum comes from in telemetry: a metric, and the one label value that counts.

    `label` "" takes all series of the metric; a value that ends in `*` is a prefix.
    """

    metric: str
    meaning: str
    label: str = ""
    value: str = ""
    quantile: float | None = None


MEASURED: Final[Mapping[str, Series]] = MappingProxyType(
    {
        "requests": Series("edge_decisions_total", "questions answered"),
        "errors": Series(
            "edge_http_requests_total", "requests that failed on the box's side", "status", "5*"
        ),
        "escalations": Series("edge_escalations_total", "questions handed to the frontier"),
        "schema_invalid": Series(
            "edge_decisions_total", "questions whose local answer did not fit its schema",
            "reason", "schema-invalid",
        ),
        "cache_lookups": Series("edge_cache_lookups_total", "questions looked up in a cache"),
        "cache_hits": Series(
            "edge_cache_lookups_total", "questions answered from one", "result", "hit"
        ),
        "output_tokens": Series("edge_output_tokens_total", "sampled tokens"),
        "busy_s": Series("edge_engine_busy_seconds_total", "seconds inside model runs"),
        "p50_s": Series("edge_http_request_seconds", "seconds of a request, median", quantile=0.5),
        "p95_s": Series(
            "edge_http_request_seconds", "seconds of a request, 95th percentile", quantile=0.95
        ),
        "cost": Series("edge_cost_total", "money of attempts, in the price list's currency"),
        "joules": Series("edge_joules_total", "energy of attempts"),
        "tasks_resolved": Series(
            "edge_task_outcomes_total", "tasks that callers called resolved", "outcome", "resolved"
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Derived:
    """A fraction of two measured names; or what it lacks to 1."""

    over: str
    under: str
    meaning: str
    lacking: bool = False


DERIVED: Final[Mapping[str, Derived]] = MappingProxyType(
    {
        "escalation_rate": Derived("escalations", "requests", "share of questions escalated"),
        "error_rate": Derived("errors", "requests", "failed requests a question"),
        "schema_valid_rate": Derived(
            "schema_invalid", "requests", "share of questions without a misfit", lacking=True
        ),
        "cache_hit_rate": Derived("cache_hits", "cache_lookups", "share answered from a cache"),
        "tokens_per_s": Derived("output_tokens", "busy_s", "sampled tokens a busy second"),
        "cost_per_task": Derived("cost", "tasks_resolved", "money a resolved task"),
        "joules_per_task": Derived("joules", "tasks_resolved", "energy a resolved task"),
        "cost_per_request": Derived("cost", "requests", "money a question"),
        "joules_per_request": Derived("joules", "requests", "energy a question"),
    }
)

NEVER_MOVED: Final = ("escalations", "errors", "schema_invalid")
"""Counters that a box does not report before they first moved: beside requests, they are 0."""

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
            QualityDefault("schema_valid_rate", "higher", "difference", 0.01, "requests", 100),
            QualityDefault("cache_hit_rate", "higher", "difference", 0.05, "cache_lookups", 100),
            QualityDefault("tokens_per_s", "higher", "ratio", 0.10, "output_tokens", 1000),
            QualityDefault("p95_s", "lower", "ratio", 0.20, "requests", 100),
            QualityDefault("cost_per_task", "lower", "ratio", 0.10, "tasks_resolved", 50),
            QualityDefault("joules_per_task", "lower", "ratio", 0.15, "tasks_resolved", 50),
            QualityDefault("cost_per_request", "lower", "ratio", 0.10, "requests", 100),
            QualityDefault("joules_per_request", "lower", "ratio", 0.15, "requests", 100),
        )
    }
)


def with_derived(window: Figures) -> dict[str, float]:
    """The measured names of a window together with the fractions that can be made of them."""
    found = {name: float(value) for name, value in window.items() if name in MEASURED}
    if "requests" in found:
        for name in NEVER_MOVED:
            found.setdefault(name, 0.0)
    for name, part in DERIVED.items():
        under = found.get(part.under, 0.0)
        if part.over in found and under > 0:
            share = found[part.over] / under
            found[name] = 1 - share if part.lacking else share
    return found
