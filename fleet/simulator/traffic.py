"""The requests of a simulated box, as the counts and sketches a real one would send."""

from __future__ import annotations

import math
import random
from typing import Final, Literal

from edge_runtime.agent.protocol import (
    CostLine,
    CostReport,
    ModelAtWork,
    Sample,
    Sketch,
    TelemetryRow,
)
from fleet.simulator.world import BoxSpec, Bundle, Flaws

_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_MEDIAN_S: Final = 0.08
_SPREAD: Final = 0.6
_TOKENS_A_REQUEST: Final = 24
_CACHE_HITS: Final = 0.3
_ROUTE: Final = "/v1/chat/completions"


def drawn_count(rng: random.Random, trials: int, share: float) -> int:
    """How many of `trials` happen with chance `share` each; normal where that is close enough."""
    share = min(1.0, max(0.0, share))
    variance = trials * share * (1 - share)
    if trials <= 50 or variance < 9:
        return sum(rng.random() < share for _ in range(trials)) if trials <= 2000 else round(
            trials * share
        )  # fmt: skip
    return min(trials, max(0, round(rng.gauss(trials * share, math.sqrt(variance)))))


def make_row(
    spec: BoxSpec,
    bundle: Bundle | None,
    flaws: Flaws,
    rng: random.Random,
    *,
    seq: int,
    uptime_s: float,
    length_s: float,
    clock_s: int,
) -> TelemetryRow:
    """What happened in the last `length_s` seconds. Costs about 0.1 ms."""
    mean = spec.requests_per_s * length_s
    asked = max(0, round(rng.gauss(mean, math.sqrt(mean)))) if bundle is not None else 0
    models = {}
    if bundle is not None:
        models[spec.model] = ModelAtWork(
            version=bundle.version, bundle_digest=bundle.digest, model_digest=bundle.model_digest
        )
    counts = _counts(spec, flaws, rng, asked) if asked else ()
    return TelemetryRow(
        seq=seq,
        uptime_ms=int(uptime_s * 1000),
        length_ms=int(length_s * 1000),
        clock_s=clock_s,
        models=models,
        counts=counts,
        gauges=(Sample(metric="edge_http_requests_active", value=min(asked, 3)),),
        sketches=(_seconds(rng, asked, flaws.slower),) if asked else (),
        cost=_cost(counts) if asked else None,
    )


def _counts(spec: BoxSpec, flaws: Flaws, rng: random.Random, asked: int) -> tuple[Sample, ...]:
    failed = drawn_count(rng, asked, flaws.error_share)
    answered = asked - failed
    escalated = drawn_count(rng, answered, spec.escalates + flaws.escalation_shift)
    hits = drawn_count(rng, answered, _CACHE_HITS)
    tokens = (answered - escalated) * _TOKENS_A_REQUEST
    http = {"route": _ROUTE, "model": spec.model}
    found = (
        ("edge_decisions_total", _decision("local", "confident"), answered - escalated),
        ("edge_decisions_total", _decision("frontier", "low-score"), escalated),
        ("edge_escalations_total", {"endpoint": "chat", "reason": "low-score"}, escalated),
        ("edge_http_requests_total", {**http, "status": "200"}, answered),
        ("edge_http_requests_total", {**http, "status": "500"}, failed),
        ("edge_cache_lookups_total", {"cache": "exact", "result": "hit"}, hits),
        ("edge_cache_lookups_total", {"cache": "exact", "result": "miss"}, answered - hits),
        ("edge_output_tokens_total", {"model": spec.model}, tokens),
        ("edge_engine_busy_seconds_total", {"model": spec.model}, tokens * flaws.slower / 400),
        ("edge_cost_total", {"tier": "frontier"}, escalated * 0.002),
        ("edge_joules_total", {"source": "model"}, tokens * 0.15),
        ("edge_task_outcomes_total", {"outcome": "resolved"}, round(answered * 0.9)),
    )
    return tuple(
        Sample(metric=metric, labels=labels, value=value)
        for metric, labels, value in found
        if value
    )


def _cost(counts: tuple[Sample, ...]) -> CostReport:
    """What the box's ledger would have booked of the same requests."""
    known = {(one.metric, one.labels.get("tier", "")): one.value for one in counts}

    def line(tier: Literal["local", "frontier"], resolved: float, **sums: float) -> CostLine:
        asked = known.get(("edge_decisions_total", tier), 0.0)
        numbers = {"requests": asked, "answered": asked, "tasks": asked, "resolved": resolved}
        return CostLine(
            endpoint="chat",
            owner="default",
            tier=tier,
            **{name: round(value) for name, value in (numbers | sums).items()},
        )

    away = known.get(("edge_decisions_total", "frontier"), 0.0)
    money = known.get(("edge_cost_total", "frontier"), 0.0)
    resolved = known.get(("edge_task_outcomes_total", ""), 0.0)
    lines = (
        line(
            "local",
            max(0.0, resolved - away),
            tokens_out=known.get(("edge_output_tokens_total", ""), 0.0),
            energy_uj=1e6 * known.get(("edge_joules_total", ""), 0.0),
        ),
        line("frontier", min(away, resolved), frontier_nano=1e9 * money),
    )
    return CostReport(currency="USD", lines=tuple(one for one in lines if one.requests))


def _decision(tier: str, reason: str) -> dict[str, str]:
    return {"endpoint": "chat", "tier": tier, "reason": reason}


def _seconds(rng: random.Random, asked: int, slower: float) -> Sketch:
    """Log-normal seconds by bucket: the shares of the curve, not `asked` draws of it."""
    median_s = _MEDIAN_S * slower * rng.lognormvariate(0.0, 0.05)
    below, counts = 0, []
    for bound in _BOUNDS:
        z = math.log(bound / median_s) / (_SPREAD * math.sqrt(2))
        upto = round(asked * 0.5 * (1 + math.erf(z)))
        counts.append(upto - below)
        below = upto
    return Sketch(
        metric="edge_http_request_seconds",
        labels={"route": _ROUTE},
        bounds=_BOUNDS,
        counts=(*counts, asked - below),
        total=asked * median_s * math.exp(_SPREAD**2 / 2),
    )
