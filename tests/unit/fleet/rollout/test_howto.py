"""The page for people says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from fleet.registry.facts import BOX_NAMES
from fleet.rollout.plan import (
    Approval,
    Guards,
    Pace,
    RolloutPlan,
    Times,
    Waves,
    parse_plan,
)
from fleet.rollout.signals import EVENTS, QUALITY_DEFAULTS

PAGE = (Path(__file__).parents[4] / "docs" / "howto" / "roll-out.md").read_text("utf-8")


def test_the_plan_on_the_page_is_one_with_its_additions() -> None:
    first, *more = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    plan = parse_plan("\n".join((first, *more)), BOX_NAMES)
    assert set(plan.guards.quality) == {"escalation_rate", "p95_s", "slow-half"}
    assert plan.times.windows[0].start_min == 120


def test_every_key_event_and_ready_made_figure_is_on_the_page() -> None:
    parts = {"waves": Waves, "pace": Pace, "times": Times, "guards": Guards, "approval": Approval}
    for table, model in parts.items():
        (row,) = re.findall(rf"^\| `{table}` \|.*$", PAGE, re.MULTILINE)
        missing = {
            key for key in model.model_fields if f"`{key}`" not in row and f"`{key}." not in row
        }
        assert not missing, table
    assert set(RolloutPlan.model_fields) - set(parts) == {"name", "change", "target", "probation"}
    assert all(f"`{name}`" in PAGE for name in (*EVENTS, *QUALITY_DEFAULTS))
