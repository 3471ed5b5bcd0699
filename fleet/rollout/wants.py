"""What a box's document says after a rollout changed its part of it. Pure.

A box has one document for everything that is wanted of it. A rollout replaces the item of its own
kind and name and leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.agent.protocol import Want, WantItem
from fleet.rollout.inventory import Artefact
from fleet.rollout.plan import HOUR_S, RolloutPlan
from fleet.rollout.progress import Base, BoxProgress
from fleet.rollout.states import Aim


def item_of(
    plan: RolloutPlan,
    artefact: Artefact,
    box: BoxProgress,
    aim: Aim,
    *,
    rollout: str,
    generation: int,
    now_s: float,
) -> WantItem | None:
    """The item of this rollout; None where the box is to go back to nothing."""
    if aim is Aim.OLD:
        return None if box.base is None else _old(plan, box.base, rollout, generation)
    change, times = plan.change, plan.times
    delta = artefact.deltas.get(box.base.digest) if box.base is not None else None
    deadline_s = None
    if times.box_deadline_hours is not None:
        deadline_s = int(now_s + times.box_deadline_hours * HOUR_S)
    return WantItem(
        kind=change.kind,
        name=change.name,
        generation=generation,
        rollout=rollout,
        digest=change.digest,
        release=change.release,
        release_floor=max(1, change.release_floor),
        bytes_full=artefact.bytes_full,
        delta_base=box.base.digest if box.base is not None and delta is not None else None,
        bytes_delta=delta,
        delta_fallback=change.delta_fallback,
        rate_bytes_s=plan.pace.box_bytes_per_s,
        metered=plan.pace.metered,
        windows=times.windows,
        deadline_s=deadline_s,
        probation=plan.probation,
    )


def _old(plan: RolloutPlan, base: Base, rollout: str, generation: int) -> WantItem:
    """Back at once: no window, no deadline, also over a metered link. Most boxes still have it."""
    return WantItem(
        kind=plan.change.kind,
        name=plan.change.name,
        generation=generation,
        rollout=rollout,
        digest=base.digest,
        release=base.release,
        release_floor=min(base.release_floor, base.release),
        bytes_full=base.bytes_full,
        metered="allow",
        probation=plan.probation,
    )


def current_item(want: Want | None, plan: RolloutPlan) -> WantItem | None:
    """What a box's document asks of it under the plan's kind and name."""
    if want is None:
        return None
    kind, name = plan.change.kind, plan.change.name
    return next((one for one in want.items if (one.kind, one.name) == (kind, name)), None)


def may_change(want: Want | None, plan: RolloutPlan, box: BoxProgress, rollout: str) -> bool:
    """Whether the box's document is still this rollout's to change: nobody else has since."""
    item = current_item(want, plan)
    if item is None:
        return box.base_generation == 0 or box.generation > 0
    return item.rollout == rollout or item.generation == box.base_generation


def amended(
    want: Want | None,
    plan: RolloutPlan,
    item: WantItem | None,
    *,
    principal: str,
    generation: int,
    issued_s: int,
    sources: Sequence[str],
) -> Want:
    """The next document. Raises `ValueError` when the box would have too many items."""
    kept = [] if want is None else list(want.items)
    mine = (plan.change.kind, plan.change.name)
    kept = [one for one in kept if (one.kind, one.name) != mine]
    return Want(
        schema="edge-runtime/want/1",
        principal=principal,
        generation=generation,
        issued_s=issued_s,
        sources=tuple(sources),
        items=tuple([*kept, item] if item is not None else kept),
    )
