"""A plan is checked as a whole when it is filed, and says where it is wrong."""

from __future__ import annotations

import pytest

from edge_runtime.agent.protocol import ItemKind
from fleet.rollout.plan import SAFETY_EVENT, PlanError, RolloutPlan, parse_plan

NAMES: dict[str, type] = {"labels": dict, "memory_bytes": int}
HEAD = f"""
name = "assistant 2"
[change]
name = "assistant"
digest = "{"a" * 64}"
release = 7
"""


def parse(more: str = "") -> RolloutPlan:
    return parse_plan(HEAD + more, NAMES)


def test_a_short_plan_has_the_stated_defaults() -> None:
    plan = parse()
    assert plan.change.kind is ItemKind.BUNDLE
    assert plan.waves.shares == (0.01, 0.1, 0.5, 1.0)
    assert (plan.waves.least_boxes, plan.waves.hold_back) == (20, 0.02)
    assert list(plan.guards.safety) == ["broken"]
    assert plan.guards.safety["broken"].event == SAFETY_EVENT
    assert plan.guards.safety["broken"].limit == 0.02
    assert plan.guards.level("broken") == 0.05
    assert plan.guards.on_fail == "rollback"
    assert plan.approval.required


def test_a_known_figure_needs_only_what_differs() -> None:
    guard = parse("[guards.quality.tokens_per_s]\ntolerance = 0.25").guards.quality["tokens_per_s"]
    assert (guard.figure, guard.better, guard.scale) == ("tokens_per_s", "higher", "ratio")
    assert (guard.tolerance, guard.least) == (0.25, "output_tokens")


def test_another_figure_under_a_known_name_borrows_nothing() -> None:
    with pytest.raises(PlanError, match=r"guards\.quality\.p95_s\.better: Field required"):
        parse('[guards.quality.p95_s]\nfigure = "p50_s"\ntolerance = 0.2')


def test_guards_of_a_sort_share_its_budget() -> None:
    plan = parse(
        "[guards.quality.escalation_rate]\n[guards.quality.cache_hit_rate]\n"
        "[guards.quality.p95_s]\nlevel = 0.01"
    )
    assert plan.guards.level("escalation_rate") == pytest.approx(0.05 / 3)
    assert plan.guards.level("p95_s") == 0.01


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            '[guards.safety.broken]\nevent = "crashed || smoke"',
            r"guards\.safety\.broken\.event: .*line 1, column 12: undeclared .*'smoke'",
        ),
        (
            '[guards.quality.x]\nfigure = "escalations /"\nbetter = "lower"\ntolerance = 0.1',
            r"guards\.quality\.x\.figure: .*line 1, column 14: Syntax error",
        ),
        (
            '[guards.quality.x]\nfigure = "1"\nbetter = "lower"\ntolerance = 0.1',
            r"guards\.quality\.x\.figure: .*gives int, not float",
        ),
        ("[target]\nboxes = 'sight == 1'", r"target\.boxes: .*line 1, column 1: undeclared"),
        ("[target]\nboxes = 'memory_bytes'", r"target\.boxes: .*gives int, not bool"),
        ("[waves]\nshares = [0.5, 0.1, 1.0]", r"waves\.shares: must rise and end with 1\.0"),
        ("[waves]\nshares = [0.1, 0.5]", r"waves\.shares: must rise and end with 1\.0"),
        ("[guards]\nsafety = {}", "guards: a rollout without a safety guard"),
        (
            '[guards.safety.p95_s]\n[guards.quality.p95_s]\nscale = "ratio"',
            "guards: two guards are called p95_s",
        ),
        ("[guards.quality.p95_s]\n[times]\nbake_hours = 1.0", "must reach over times.after_hours"),
        ("[pace]\nbytes_per_second = 5.0", r"pace\.bytes_per_second: Extra inputs"),
        ("release_floor = 8", "release 7 lies below its floor 8"),
        ("[waves", "the plan is no TOML"),
        ("#" * 70_000, "larger than 65536 bytes"),
    ],
)
def test_what_is_wrong_is_named(more: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse(more)


def test_windows_are_those_of_the_protocol() -> None:
    plan = parse("[[times.windows]]\ndays = [5, 6]\nstart_min = 120\nlength_min = 240")
    assert plan.times.windows[0].days == (5, 6)
    assert plan.times.windows[0].wait_s(5 * 86_400) > 0
