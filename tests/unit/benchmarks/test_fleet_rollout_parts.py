"""The pure parts of the rollout benchmark: its plans, what it says, its tally."""

from __future__ import annotations

import pytest

from benchmarks.fleet_rollout_acts import Act, Pace
from benchmarks.fleet_rollout_report import markdown
from fleet.demo_traffic import NAMED_FAILURES, Tally
from fleet.registry.facts import BOX_NAMES
from fleet.rollout.plan import parse_plan
from fleet.simulator.world import simulated_bundle


@pytest.mark.parametrize("guarded", [True, False])
def test_a_plan_says_real_seconds_on_the_faster_clock(guarded: bool) -> None:
    pace = Pace(10.0, window_s=24.0, grace_s=3.0, bake_s=30.0, silent_s=90.0)
    text = pace.plan(
        "t", "assistant", simulated_bundle("assistant", 2), shares=(0.5, 1.0), least_boxes=1,
        guarded=guarded,
    )  # fmt: skip
    plan = parse_plan(text, BOX_NAMES)
    assert plan.times.bake_hours * 3600 == pytest.approx(300, abs=0.1)
    assert plan.times.before_hours == plan.times.after_hours == pytest.approx(240 / 3600, abs=1e-5)
    assert (plan.times.telemetry_grace_min, plan.times.silent_after_min) == (0.5, 15)
    assert (plan.waves.shares, plan.waves.hold_back) == ((0.5, 1.0), 0)
    assert list(plan.guards.quality) == (["escalation_rate"] if guarded else [])


def test_a_tally_keeps_counts_and_few_words() -> None:
    tally = Tally()
    for number in range(NAMED_FAILURES + 3):
        tally.fail(f"failure {number}")
    tally.answer({"x-edge-answered-by": "tiny@1", "x-edge-tier": "local"}, 0.5)
    tally.answer({"x-edge-answered-by": "tiny@2", "x-edge-tier": "local"}, 0.1)
    assert (tally.requests, tally.failed) == (NAMED_FAILURES + 5, NAMED_FAILURES + 3)
    assert len(tally.failures) == NAMED_FAILURES
    assert dict(tally.answered_by) == {"tiny@1": 1, "tiny@2": 1}
    assert (tally.slowest_s, tally.mean_s) == (0.5, pytest.approx(0.3))


def test_what_does_not_hold_is_named() -> None:
    act = Act("a good release", phase="halted", checks={"every box has it": False, "calm": True})
    act.history = [(0.0, "halted", 1, "a || b")]
    act.traffic = {
        "acme~real": {
            "requests": 3, "failed": 1, "answered_by": {"tiny@1": 2}, "mean_s": 0.05,
            "slowest_s": 0.1,
        }
    }  # fmt: skip
    assert act.failed == ["every box has it"]
    report = {
        "options": {"daemons": 1, "boxes": 3, "rate": 5.0, "loop": 2, "factor": 10.0},
        "machine": {"cpu": "some CPU", "cores": 2, "date": "2026-01-01T00:00:00"},
        "broker": "mosquitto", "took_s": 9.0, "prepared_s": 1.0, "noise": 4.0,
        "releases": [{"version": "1", "model_digest": "ab" * 32}],
        "acts": [
            {
                "title": act.title, "phase": act.phase, "took_s": 1.0, "converged_s": 0.1,
                "history": act.history, "traffic": act.traffic, "checks": act.checks, "told": {},
            }
        ],
    }  # fmt: skip
    text = markdown(report)
    assert "- DOES NOT HOLD: every box has it" in text
    assert "- holds: calm" in text
    assert "a \\|\\| b" in text
    assert "| acme~real | 3 | 1 | tiny@1 2 | 50 ms | 100 ms |" in text
