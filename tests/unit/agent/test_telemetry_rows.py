"""Rows are differences of the registry: nothing is told twice, nothing is lost between two."""

from __future__ import annotations

from edge_runtime.agent.health import HealthWatch
from edge_runtime.agent.protocol import TelemetryRow
from edge_runtime.agent.telemetry import Collector, take_snapshot
from edge_runtime.metrics import Metrics
from tests.support.engine import Clock


def collector() -> tuple[Metrics, Collector, Clock]:
    metrics, uptime = Metrics(), Clock(10.0)
    return metrics, Collector(metrics.registry, list, uptime, lambda: 5), uptime


def counts(row: TelemetryRow) -> dict[str, float]:
    return {sample.metric: sample.value for sample in row.counts}


def test_counts_are_what_came_since_the_row_before() -> None:
    metrics, rows, uptime = collector()
    metrics.count("edge_encoder_inputs_total", "assistant", amount=5)
    first = rows.cut()
    metrics.count("edge_encoder_inputs_total", "assistant", amount=2)
    uptime.now_s = 70.0
    second, third = rows.cut(), rows.cut()
    assert [counts(row) for row in (first, second, third)] == [
        {"edge_encoder_inputs_total": 5.0},
        {"edge_encoder_inputs_total": 2.0},
        {},
    ]
    assert [row.seq for row in (first, second, third)] == [1, 2, 3]
    assert (second.uptime_ms, second.length_ms) == (70_000, 60_000)


def test_histograms_become_sketches_that_add_up() -> None:
    metrics, rows, _ = collector()
    for value in (0.001, 0.02, 0.02, 99.0):
        metrics.observe("edge_step_seconds", "assistant", value=value)
    first = rows.cut()
    metrics.observe("edge_step_seconds", "assistant", value=0.02)
    second = rows.cut()
    (one,), (two,) = first.sketches, second.sketches
    assert (one.observations, two.observations) == (4, 1)
    assert one.counts[0] == 1
    assert one.counts[-1] == 1
    whole = one.merged(two)
    assert whole.observations == 5
    assert abs(whole.total - (0.001 + 3 * 0.02 + 99.0)) < 1e-9


def test_labels_that_could_carry_text_stay_on_the_box() -> None:
    metrics, rows, _ = collector()
    metrics.count("edge_encoder_inputs_total", "what is my balance?")
    metrics.count("edge_encoder_inputs_total", "assistant")
    assert [sample.labels for sample in rows.cut().counts] == [{"model": "assistant"}]


def test_gauges_are_told_as_they_are() -> None:
    metrics, rows, _ = collector()
    metrics.gauge("edge_slots", "assistant", value=8)
    rows.cut()
    assert {(one.metric, one.value) for one in rows.cut().gauges} >= {("edge_slots", 8.0)}


def test_health_is_counted_from_the_activation_on() -> None:
    metrics = Metrics()

    def happen(requests: int, errors: int, routed: int, escalated: int) -> None:
        route = "/v1/chat/completions"
        metrics.count("edge_http_requests_total", route, "200", "tiny", amount=requests - errors)
        metrics.count("edge_http_requests_total", route, "500", "tiny", amount=errors)
        metrics.count("edge_http_requests_total", route, "500", "other", amount=99)
        metrics.count("edge_decisions_total", "ask", "local", "kept", amount=routed)
        metrics.count("edge_escalations_total", "ask", "below", amount=escalated)

    watch = HealthWatch(take_snapshot(metrics.registry))
    happen(100, 10, 100, 20)
    assert not watch.watches("bundle/tiny")
    watch.begin("bundle/tiny", "tiny", take_snapshot(metrics.registry))
    happen(40, 4, 50, 30)
    facts = watch.facts("bundle/tiny", take_snapshot(metrics.registry), engine_failed=False)
    assert (facts.requests, facts.errors) == (40, 4)
    assert (facts.routed, facts.escalated) == (50, 30)
    assert (facts.before_routed, facts.before_escalated) == (100, 20)
    watch.end("bundle/tiny")
    again = watch.facts("bundle/tiny", take_snapshot(metrics.registry), engine_failed=True)
    assert again.engine_failures == 0
