"""The three acts of `fleet_rollout`, each with what is measured and what must be true.

Rules
- An act says what it checked: a check that does not hold is named, and the run fails.
- Guards see nothing but what boxes report. What real daemons did is read from their own reports
  and from the answers to their callers, not from the simulation.
- Every box counts as back when it reports the release that is wanted of it in a settled state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import select

from edge_runtime.agent.protocol import BoxState, ItemReport
from fleet.demo_traffic import Tally, Traffic
from fleet.rehearsal import LOOK_S, Rehearsal
from fleet.rollout.evidence import Pair, Sort
from fleet.rollout.service import RolloutPage
from fleet.rollout.states import Phase
from fleet.rollout.tables import rollout_evidence
from fleet.simulator.world import Bundle

HOUR_S: Final = 3600.0
SETTLED: Final = frozenset({BoxState.CONFIRMED, BoxState.PROBATION, BoxState.IDLE})

PLAN: Final = """
name = "{title}"

[change]
name = "{name}"
digest = "{digest}"

[waves]
shares = {shares}
least_boxes = {least_boxes}
hold_back = 0.0

[times]
bake_hours = {bake:.6f}
before_hours = {window:.6f}
after_hours = {window:.6f}
telemetry_grace_min = {grace:.6f}
silent_after_min = {silent:.6f}

[probation]
length_s = {probation}
"""
GUARD: Final = """
[guards.quality.escalation_rate]
tolerance = {tolerance}
least_count = {least}
"""


@dataclass(frozen=True)
class Pace:
    """How long things take, in real seconds; the clock of the plan is `factor` times as fast.

    A pair of boxes is compared over `window_s` before and after, `grace_s` after its end.
    """

    factor: float
    window_s: float = 24.0
    grace_s: float = 3.0
    bake_s: float = 30.0
    silent_s: float = 90.0
    probation_s: int = 8
    limit_s: float = 240.0
    tolerance: float = 0.015
    least_count: int = 60

    def plan(
        self,
        title: str,
        name: str,
        change: Bundle,
        *,
        shares: Sequence[float],
        least_boxes: int,
        guarded: bool,
    ) -> str:
        """A plan for this pace; `guarded`: with the guard on escalations."""
        text = PLAN.format(
            title=title, name=name, digest=change.digest, shares=list(shares),
            least_boxes=least_boxes, probation=self.probation_s,
            bake=self.bake_s * self.factor / HOUR_S, window=self.window_s * self.factor / HOUR_S,
            grace=self.grace_s * self.factor / 60, silent=self.silent_s * self.factor / 60,
        )  # fmt: skip
        guard = GUARD.format(tolerance=self.tolerance, least=self.least_count)
        return text + (guard if guarded else "")


@dataclass
class Act:
    """One rollout and what came of it. Seconds are real ones."""

    title: str
    phase: str = ""
    took_s: float = 0.0
    converged_s: float = 0.0
    history: list[tuple[float, str, int, str]] = field(default_factory=list)
    traffic: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """The checks that do not hold."""
        return [name for name, held in self.checks.items() if not held]


@dataclass
class Play:
    """The fleet, the name that is rolled out, the traffic to each real daemon by its principal."""

    fleet: Rehearsal
    name: str
    pace: Pace
    traffic: Mapping[str, Traffic]
    acts: list[Act] = field(default_factory=list)

    async def roll_out(
        self,
        title: str,
        change: Bundle,
        *,
        shares: Sequence[float],
        least_boxes: int,
        guarded: bool,
    ) -> tuple[Act, RolloutPage]:
        """Roll out, with the traffic of this act counted by itself."""
        act = Act(title)
        self.acts.append(act)
        for traffic in self.traffic.values():
            traffic.cut()
        plan = self.pace.plan(
            title, self.name, change, shares=shares, least_boxes=least_boxes, guarded=guarded
        )
        began_s = time.monotonic()
        page = await self.fleet.rollout(plan, "benchmark", lambda _: None, self.pace.limit_s)
        act.took_s = time.monotonic() - began_s
        act.phase = page.phase
        begun = page.history[0].at_s
        act.history = [
            (round((one.at_s - begun) / self.pace.factor, 1), one.after, one.wave, one.reason)
            for one in page.history
        ]
        return act, page

    async def converge(self, act: Act, wanted: Bundle) -> None:
        """Wait until every box reports that it serves `wanted`, then end the act's traffic."""
        began_s, others = time.monotonic(), {"nobody asked": ""}
        try:
            async with asyncio.timeout(self.pace.limit_s):
                while others:
                    others = await self._elsewhere(wanted)
                    await self.fleet.wait(LOOK_S)
        except TimeoutError:
            act.told["not there"] = others
        act.converged_s = time.monotonic() - began_s
        act.checks[f"all {self.size} boxes report {wanted.version}"] = not others
        served = [box.world.bundles.get(one.active or "") for box in self.fleet.swarm.boxes
                  for one in box.reports() if one.name == self.name]  # fmt: skip
        act.checks["simulated boxes serve what they report"] = all(
            one is not None and one.digest == wanted.digest for one in served
        )
        tallies = {who: traffic.cut() for who, traffic in self.traffic.items()}
        act.traffic = {who: _told(tally) for who, tally in tallies.items()}
        act.checks["no request to a real daemon failed"] = all(
            tally.requests > 0 and not tally.failed for tally in tallies.values()
        )

    @property
    def size(self) -> int:
        """All boxes."""
        return len(self.fleet.swarm.boxes) + len(self.fleet.daemons)

    async def items(self) -> dict[str, ItemReport]:
        """What each box says of the name."""
        return {
            who: item
            for who, have in (await self.fleet.reported()).items()
            for item in have.items
            if item.name == self.name
        }

    async def _elsewhere(self, wanted: Bundle) -> dict[str, str]:
        items = await self.items()
        return {
            who: f"{item.version} {item.state}"
            for who, item in items.items()
            if item.active != wanted.digest or item.state not in SETTLED
        }


def _told(tally: Tally) -> dict[str, Any]:
    return {
        "requests": tally.requests,
        "failed": tally.failed,
        "failures": tally.failures,
        "answered_by": dict(tally.answered_by),
        "tiers": dict(tally.tiers),
        "mean_s": tally.mean_s,
        "slowest_s": tally.slowest_s,
    }


async def good_release(play: Play, change: Bundle, before: Bundle, *, guarded: bool = True) -> Act:
    """Every box takes it, wave after wave, and callers notice nothing."""
    act, page = await play.roll_out(
        "a good release", change, shares=(0.5, 1.0), least_boxes=1, guarded=guarded
    )
    act.checks["the rollout completed"] = page.phase is Phase.COMPLETED
    act.checks["in two waves"] = page.waves == 2
    await play.converge(act, change)
    both = {f"{play.name}@{one.version}" for one in (before, change)}
    for who, tally in act.traffic.items():
        act.checks[f"{who} answered by both, one after the other"] = both <= set(
            tally["answered_by"]
        )
    act.told["verdicts"] = _verdicts(page)
    return act


async def broken_release(play: Play, change: Bundle, good: Bundle) -> Act:
    """Boxes refuse it, the one before serves on, the guard halts."""
    act, page = await play.roll_out(
        "wrong golden answers", change, shares=(0.75, 1.0), least_boxes=1, guarded=False
    )
    act.checks["the rollout was rolled back"] = page.phase is Phase.ROLLED_BACK
    halted = next((one for one in page.history if one.after is Phase.HALTED), None)
    act.checks["by the safety guard"] = halted is not None and "guard broken" in halted.reason
    views = await play.fleet.host.services.rollouts.boxes(page.id)
    act.told["boxes begun"] = sum(one.offered_at_s is not None for one in views)
    act.told["of"] = len(views)
    refused = {one.box for one in views if "refused" in one.events}
    act.checks["each real daemon refused it by itself"] = set(play.traffic) <= refused
    await play.converge(act, good)
    named = f"{play.name}@{change.version}"
    act.checks["nobody was answered by it"] = all(
        named not in tally["answered_by"] for tally in act.traffic.values()
    )
    act.told["verdicts"] = _verdicts(page)
    return act


async def worse_release(play: Play, change: Bundle, good: Bundle) -> Act:
    """Boxes take it, the guard on escalations sees it, halts and rolls back."""
    act, page = await play.roll_out(
        "a little worse", change, shares=(0.5, 1.0), least_boxes=1, guarded=True
    )
    act.checks["the rollout was rolled back"] = page.phase is Phase.ROLLED_BACK
    halted = next((one for one in page.history if one.after is Phase.HALTED), None)
    act.checks["by the quality guard"] = (
        halted is not None and "guard escalation_rate" in halted.reason
    )
    views = await play.fleet.host.services.rollouts.boxes(page.id)
    exposed = {one.box for one in views if one.serving_at_s is not None}
    act.told["boxes begun"], act.told["of"] = len(exposed), len(views)
    act.checks["half of the boxes never saw it"] = len(exposed) <= len(views) / 2
    act.checks["a real daemon was among the exposed"] = bool(exposed & set(play.traffic))
    await play.converge(act, good)
    both = {f"{play.name}@{one.version}" for one in (good, change)}
    for who in exposed & set(play.traffic):
        act.checks[f"{who} answered by both"] = both <= set(act.traffic[who]["answered_by"])
    act.told["verdicts"] = _verdicts(page)
    act.told["pairs of real daemons"] = await _real_pairs(play, page)
    return act


async def _real_pairs(play: Play, page: RolloutPage) -> list[dict[str, Any]]:
    """What the guard was told of real daemons: each changed one, its partner, and figures."""
    table = rollout_evidence.c
    query = select(table.box, table.data).where(
        table.rollout == page.id, table.sort == Sort.PAIR.value, table.box.in_(list(play.traffic))
    )
    rows = await play.fleet.host.services.database.read(lambda c: c.execute(query).all())
    found = []
    for box, data in rows:
        pair = Pair.of(data)
        windows = {
            "before": pair.changed_before, "after": pair.changed_after,
            "partner_before": pair.control_before, "partner_after": pair.control_after,
        }  # fmt: skip
        shares = {
            name: [int(window.get("escalations", 0)), int(window.get("requests", 0))]
            for name, window in windows.items()
        }
        found.append({"box": box, "partner": pair.partner, **shares})
    return found


def _verdicts(page: RolloutPage) -> list[dict[str, Any]]:
    return [
        {"guard": one.guard, "verdict": one.verdict, "reason": one.reason} for one in page.verdicts
    ]
