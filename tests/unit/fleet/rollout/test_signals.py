"""Figures of a box out of its telemetry."""

from __future__ import annotations

import pytest

from edge_runtime.metric_specs import SPECS
from fleet.rollout.signals import DERIVED, MEASURED, QUALITY_DEFAULTS, with_derived

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


def test_fractions_are_made_where_there_is_something_below() -> None:
    figures = with_derived(
        {
            "requests": 100, "escalations": 25, "schema_invalid": 30, "cache_lookups": 60,
            "cache_hits": 24, "tasks_resolved": 0, "cost": 3.0, "unknown": 1.0,
        }
    )  # fmt: skip
    assert figures["escalation_rate"] == 0.25
    assert figures["schema_valid_rate"] == pytest.approx(0.7)
    assert figures["cache_hit_rate"] == 0.4
    assert figures["cost_per_request"] == 0.03
    assert "cost_per_task" not in figures
    assert "unknown" not in figures


def test_a_box_that_never_escalated_has_a_rate_of_zero() -> None:
    assert with_derived({"requests": 10.0})["escalation_rate"] == 0


def test_nothing_reported_is_nothing_known() -> None:
    assert with_derived({}) == {}
    assert "escalation_rate" not in with_derived({"requests": 0.0})
