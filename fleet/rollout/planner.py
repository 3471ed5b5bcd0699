"""What a rollout will cost, who cannot take part, and what its guards can see. Pure.

Rules
- Asked before anything is stored. The answer uses the same waves, the same reasons and the same
  statistics as the rollout itself will.
- What a guard can see is an expectation (see `edge_runtime.stats.planner`): single runs vary
  widely. Where a spread is assumed and not measured, the answer says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from edge_runtime.stats.exposure import harmed_until_alarm
from edge_runtime.stats.planner import box_pairs_until_verdict, detectable_drop
from fleet.rollout.guards import step_of
from fleet.rollout.inventory import Artefact, BoxFacts, strata_of, why_not
from fleet.rollout.plan import HOUR_S, RolloutPlan
from fleet.rollout.waves import HOLD_BACK, Candidate, Member, enlist

NAMED: Final = 5
"""Boxes named for a reason; the number is of all."""
ASSUMED_SPREAD: Final[Mapping[str, float]] = {"difference": 0.03, "ratio": 0.15}
"""Standard deviation of a pair's value where nothing was measured: for shares that of about 500
requests a window, for logarithms what costs and latencies of equal boxes showed.
"""


@dataclass(frozen=True, slots=True)
class WavePlan:
    """One wave: its boxes, those with the change after it, bytes, and hours at the least.

    `offer_hours` by the pace alone, `hours` with the bake time; boxes that wait for a window or
    are away come on top.
    """

    wave: int
    boxes: int
    exposed: int
    bytes: int
    offer_hours: float
    hours: float
    metered: int
    offline: int
    pairs: int
    strata: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SafetySight:
    """What a safety guard can see by the end of a wave.

    `needed` harmed boxes halt, if all that were exposed are counted; `smallest_share` is that
    number as a share. None: too few boxes to halt on at all.
    """

    guard: str
    wave: int
    exposed: int
    needed: int | None
    smallest_share: float | None


@dataclass(frozen=True, slots=True)
class QualitySight:
    """What a quality guard can see by the end of a wave.

    `drop` is the smallest true worsening that is expected to be shown by then (None: none), in
    the guard's own scale; `pairs_to_pass` how many pairs a change without effect needs to pass.
    `holds`: the gate would hold a change without effect here.
    """

    guard: str
    wave: int
    pairs: int
    spread: float
    measured: bool
    drop: float | None
    pairs_to_pass: int | None
    holds: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """The answer to `--plan`."""

    boxes: int
    held_back: int
    bytes: int
    full_downloads: int
    metered: int
    offline: int
    left_out: Mapping[str, tuple[int, tuple[str, ...]]]
    waves: tuple[WavePlan, ...]
    safety: tuple[SafetySight, ...]
    quality: tuple[QualitySight, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def hours(self) -> float:
        """All waves one after another, at the least."""
        return sum(wave.hours for wave in self.waves)


def forecast(
    plan: RolloutPlan,
    artefact: Artefact,
    boxes: Sequence[BoxFacts],
    *,
    rollout: str = "forecast",
    spreads: Mapping[str, float] | None = None,
) -> Forecast:
    """Plan for these boxes (those the target names). `spreads`: by guard, measured earlier."""
    left_out: dict[str, list[str]] = {}
    able: list[BoxFacts] = []
    for box in boxes:
        reason = why_not(box, artefact)
        if reason is None:
            able.append(box)
        else:
            left_out.setdefault(reason, []).append(box.box)
    strata = strata_of(able)
    members = enlist(
        [Candidate(one.box, strata[one.box], artefact.bytes_for(one)) for one in able],
        rollout,
        plan.waves.shares,
        least_boxes=plan.waves.least_boxes,
        hold_back=plan.waves.hold_back,
    )
    facts = {one.box: one for one in able}
    waves = _waves(plan, members, facts)
    safety = tuple(_safety(plan, waves))
    quality = tuple(_quality(plan, waves, spreads or {}))
    part = Forecast(
        boxes=sum(wave.boxes for wave in waves),
        held_back=sum(one.wave == HOLD_BACK for one in members),
        bytes=sum(wave.bytes for wave in waves),
        full_downloads=sum(artefact.bytes_for(one) >= artefact.bytes_full > 0 for one in able),
        metered=sum(one.metered for one in able),
        offline=sum(not one.online for one in able),
        left_out={
            reason: (len(names), tuple(names[:NAMED]))
            for reason, names in sorted(left_out.items(), key=lambda item: -len(item[1]))
        },
        waves=waves,
        safety=safety,
        quality=quality,
    )
    return _with_warnings(part, plan)


def _waves(
    plan: RolloutPlan, members: Sequence[Member], facts: Mapping[str, BoxFacts]
) -> tuple[WavePlan, ...]:
    found, exposed = [], 0
    for wave in range(1 + max((one.wave for one in members), default=HOLD_BACK)):
        mine = [one for one in members if one.wave == wave]
        exposed += len(mine)
        size = sum(one.size_bytes for one in mine)
        offer_hours = size / plan.pace.bytes_per_s / HOUR_S
        found.append(
            WavePlan(
                wave=wave,
                boxes=len(mine),
                exposed=exposed,
                bytes=size,
                offer_hours=offer_hours,
                hours=offer_hours + plan.times.bake_hours + _slowest_hours(plan, mine),
                metered=sum(facts[one.box].metered for one in mine),
                offline=sum(not facts[one.box].online for one in mine),
                pairs=sum(one.partner is not None for one in mine),
                strata=dict(sorted(Counter(one.stratum for one in mine).items())),
            )
        )
    return tuple(found)


def _slowest_hours(plan: RolloutPlan, members: Sequence[Member]) -> float:
    """The last box asked still has to fetch at its own pace."""
    rate = plan.pace.box_bytes_per_s
    largest = max((one.size_bytes for one in members), default=0)
    return largest / rate / HOUR_S if rate else 0.0


def _safety(plan: RolloutPlan, waves: Sequence[WavePlan]) -> list[SafetySight]:
    found = []
    for name, guard in sorted(plan.guards.safety.items()):
        level = plan.guards.level(name)
        for wave in waves:
            needed = harmed_until_alarm(wave.exposed, guard.limit, level)
            share = None if needed is None else needed / wave.exposed
            found.append(SafetySight(name, wave.wave, wave.exposed, needed, share))
    return found


def _quality(
    plan: RolloutPlan, waves: Sequence[WavePlan], spreads: Mapping[str, float]
) -> list[QualitySight]:
    found = []
    for name, guard in sorted(plan.guards.quality.items()):
        level = plan.guards.level(name)
        spread = spreads.get(name, ASSUMED_SPREAD[guard.scale])
        tolerance = step_of(guard)
        to_pass = box_pairs_until_verdict(0.0, spread, tolerance, level=level)
        pairs = 0
        for wave in waves:
            pairs += wave.pairs
            drop = detectable_drop(pairs, spread, tolerance, level=level)
            found.append(
                QualitySight(
                    guard=name,
                    wave=wave.wave,
                    pairs=pairs,
                    spread=spread,
                    measured=name in spreads,
                    drop=None if math.isinf(drop) else drop,
                    pairs_to_pass=None if math.isinf(to_pass) else math.ceil(to_pass),
                    holds=wave.wave + 1 >= guard.from_wave and pairs < to_pass,
                )
            )
    return found


def _with_warnings(part: Forecast, plan: RolloutPlan) -> Forecast:
    found = []
    if not part.boxes:
        found.append("no box that the target names can take part")
    found += [
        f"wave {sight.wave + 1}: guard {sight.guard} cannot halt on {sight.exposed} boxes, "
        "whatever happens to them; raise waves.least_boxes"
        for sight in part.safety
        if sight.needed is None
    ]
    for quality in part.quality:
        if quality.holds:
            needs = "no number of" if quality.pairs_to_pass is None else quality.pairs_to_pass
            found.append(
                f"wave {quality.wave + 1}: guard {quality.guard} has {quality.pairs} pairs of "
                f"boxes, about {needs} pairs pass a change without effect: the gate will hold; "
                "take larger or longer waves, a wider tolerance, or a later from_wave"
            )
    if part.quality and plan.waves.hold_back == 0 and len(part.waves) > 1:
        found.append("without a hold-back the last wave has nobody to be compared with")
    return replace(part, warnings=tuple(found))
