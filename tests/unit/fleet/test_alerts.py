"""When an alert is raised, held back, and cleared."""

from __future__ import annotations

import pytest

from edge_runtime.agent.protocol import Health
from edge_runtime.errors import UsageError
from fleet.ingest.alerts import RuleState, Step, compile_rule, look, values_of
from fleet.registry.summary import Summary

HIGH = compile_rule("unreachable_share > 0.1")
YES, NO, UNKNOWN = {"unreachable_share": 0.5}, {"unreachable_share": 0.0}, dict[str, float]()


@pytest.mark.parametrize(
    ("state", "values", "step"),
    [
        (RuleState(), NO, Step.NOTHING),
        (RuleState(), YES, Step.HOLD),
        (RuleState(holding_since_s=950.0), YES, Step.NOTHING),
        (RuleState(holding_since_s=940.0), YES, Step.RAISE),
        (RuleState(holding_since_s=950.0), NO, Step.FORGET),
        (RuleState(holding_since_s=940.0, raised=True), YES, Step.NOTHING),
        (RuleState(holding_since_s=940.0, raised=True), NO, Step.CLEAR),
        (RuleState(holding_since_s=1.0), UNKNOWN, Step.NOTHING),
        (RuleState(holding_since_s=1.0, raised=True), UNKNOWN, Step.NOTHING),
    ],
)
def test_a_rule_raises_after_its_time_and_clears_once(
    state: RuleState, values: dict[str, float], step: Step
) -> None:
    assert look(HIGH, state, values, for_s=60.0, now_s=1000.0) is step


def test_a_rule_without_a_wait_raises_at_once() -> None:
    assert look(HIGH, RuleState(), YES, for_s=0.0, now_s=5.0) is Step.RAISE


def test_rules_speak_of_boxes_and_of_figures() -> None:
    summary = Summary(
        active=4,
        revoked=1,
        pending=2,
        health={Health.ONLINE: 3, Health.SILENT: 1, Health.UNREACHABLE: 0},
        failures={"stuck": 1},
        items=[],
    )
    values = values_of(summary, {"escalation_rate": 0.3})
    for text in (
        "boxes == 4 && pending == 2 && failed_stuck == 1 && failed_reverted == 0",
        "silent_share == 0.25 && online == 3",
        "escalation_rate > 0.2",
    ):
        assert compile_rule(text).holds(values), text
    empty = summary.model_copy(update={"active": 0})
    assert "silent_share" not in values_of(empty, {})


def test_a_rule_about_nothing_known_is_refused() -> None:
    with pytest.raises(UsageError, match="undeclared reference to 'cpu_load'"):
        compile_rule("cpu_load > 0.9")
