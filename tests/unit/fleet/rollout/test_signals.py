"""Figures of a box out of its telemetry."""

from __future__ import annotations

import pytest

from edge_runtime.agent.protocol import Sample, Sketch
from edge_runtime.metric_specs import SPECS
from fleet.rollout.signals import DERIVED, MEASURED, QUALITY_DEFAULTS, measured, with_derived

BY_NAME = {spec.name: spec for spec in SPECS}


@pytest.mark.parametrize("name", MEASURED)
def test_every_name_is_a_metric_of_the_daemon(name: str) -> None:
    series = MEASURED[name]
    spec = BY_NAME[series.metric]
    assert not series.label or series.label in spec.labels
    assert (spec.kind == "histogram") == (series.quantile is not None)


def test_fractions_and_defaults_are_made_of_known_names() -> None:
    assert all({part.over, part.under} <= set(MEASURED) for part in DERIVED.values())
    known = set(MEASURED) | set(DERIVED)
    assert all({one.figure, one.least} <= known for one in QUALITY_DEFAULTS.values())


def sample(metric: str, value: float, **labels: str) -> Sample:
    return Sample(metric=metric, labels=labels, value=value)


def test_counts_add_up_by_label() -> None:
    found = measured(
        [
            sample("edge_decisions_total", 70, tier="local", reason="confident"),
            sample("edge_decisions_total", 30, tier="frontier", reason="schema-invalid"),
            sample("edge_escalations_total", 25),
            sample("edge_cache_lookups_total", 60, cache="exact", result="miss"),
            sample("edge_cache_lookups_total", 40, cache="exact", result="hit"),
            sample("edge_http_requests_total", 3, status="503"),
            sample("edge_http_requests_total", 97, status="200"),
            sample("something_else_total", 5),
        ],
        [],
    )
    assert found == {
        "requests": 100, "escalations": 25, "schema_invalid": 30, "errors": 3,
        "cache_lookups": 100, "cache_hits": 40,
    }  # fmt: skip
    figures = with_derived(found)
    assert figures["escalation_rate"] == 0.25
    assert figures["schema_valid_rate"] == pytest.approx(0.7)
    assert figures["cache_hit_rate"] == 0.4
    assert "cost_per_task" not in figures


def test_a_box_that_never_escalated_has_a_rate_of_zero() -> None:
    found = measured([sample("edge_decisions_total", 10, tier="local", reason="confident")], [])
    assert with_derived(found)["escalation_rate"] == 0


def test_nothing_reported_is_nothing_known() -> None:
    assert measured([], []) == {}
    assert with_derived({"requests": 0.0, "escalations": 0.0}) == {
        "requests": 0.0, "escalations": 0.0,
    }  # fmt: skip


def test_quantiles_come_from_merged_sketches() -> None:
    def sketch(counts: tuple[int, ...], bounds: tuple[float, ...] = (0.1, 1.0)) -> Sketch:
        return Sketch(metric="edge_http_request_seconds", bounds=bounds, counts=counts, total=1)

    found = measured([], [sketch((90, 10, 0)), sketch((0, 100, 0)), sketch((9, 9, 9), (3.0, 4.0))])
    assert found["p95_s"] == pytest.approx(0.1 + 0.9 * 100 / 110)
    assert "p50_s" in found
