"""What a tick does inside its transaction: take in, look, carry out. No clock, no waiting."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fleet.rollout.evidence import Evidence
from fleet.rollout.inventory import BoxFacts, strata_of
from fleet.rollout.machine import recall
from fleet.rollout.pairs import MINUTE_S, compared, not_compared, spoiled, windows_of
from fleet.rollout.plan import HOUR_S
from fleet.rollout.progress import (
    BoxProgress,
    PairState,
    Status,
    fell_silent,
    offered,
    reopened,
    reported,
    watched,
)
from fleet.rollout.states import (
    LIVE,
    Counts,
    Decision,
    Enlist,
    Judgement,
    Offer,
    Phase,
    SetWant,
    View,
)
from fleet.rollout.store import Rollout, Tx
from fleet.rollout.waves import HOLD_BACK, Candidate, enlist

BATCH: Final = 500
"""Boxes a tick takes in, or offers to, of each sort."""
PAIR_BATCH: Final = 8
"""Comparisons of a tick: each reads hours of telemetry of two boxes."""


def observe(tx: Tx, rollout: Rollout, now: float, listening_since_s: float) -> None:
    """Reports, silences and comparisons become records and evidence."""
    if rollout.state.phase in (Phase.DRAFT, Phase.APPROVED):
        return
    rows: list[Evidence] = []
    for box, report in tx.news(rollout.id, BATCH):
        box_after, more = reported(box, report, now)
        tx.put_box(rollout.id, box_after)
        rows += more
    if rollout.state.phase in LIVE:
        rows += _silences(tx, rollout, now, listening_since_s)
        rows += _comparisons(tx, rollout, now)
    if rows:
        tx.add_evidence(rollout.id, rows)


def _silences(tx: Tx, rollout: Rollout, now: float, listening_since_s: float) -> list[Evidence]:
    times = rollout.plan.times
    limit_s = times.silent_after_min * MINUTE_S
    if now - listening_since_s < limit_s:
        return []
    rows: list[Evidence] = []
    bake_s = times.bake_hours * HOUR_S
    for box, heard_s in tx.quiet(rollout.id, now - limit_s, now - bake_s, BATCH):
        since_s = max(heard_s, box.exposed_at_s or 0.0)
        if now - since_s >= limit_s and watched(box, bake_s, now):
            silent, more = fell_silent(box, now - since_s, now)
            tx.put_box(rollout.id, silent)
            rows += more
    return rows


def _comparisons(tx: Tx, rollout: Rollout, now: float) -> list[Evidence]:
    """Pairs whose windows are over and whose telemetry should be in."""
    if not rollout.plan.guards.quality:
        return []
    times, rows = rollout.plan.times, []
    wait_s = times.after_hours * HOUR_S + times.telemetry_grace_min * MINUTE_S
    for box in tx.owed(rollout.id, now - wait_s, PAIR_BATCH):
        windows = windows_of(times, box)
        partner = tx.box(rollout.id, box.partner or "")
        assert windows is not None
        assert partner is not None
        reason = spoiled(box, partner, windows)
        if reason is None:
            before, after = windows.before, windows.after
            figures = (
                tx.figures(rollout, box.box, before),
                tx.figures(rollout, box.box, after),
                tx.figures(rollout, partner.box, before),
                tx.figures(rollout, partner.box, after),
            )
            rows.append(compared(box, partner.box, figures, now))
        else:
            rows.append(not_compared(box, reason, now))
        tx.put_box(rollout.id, replace(box, pair=PairState.DONE))
    return rows


def view_of(tx: Tx, rollout: Rollout, now: float, judgement: Judgement, candidates: int) -> View:
    """What the machine may know. `candidates`: boxes that could take part if it began now."""
    state, name = rollout.state, rollout.id
    running, done = state.phase is Phase.RUNNING, state.phase is Phase.COMPLETED
    back = recall(state)
    return View(
        now_s=now,
        waves=rollout.waves,
        candidates=candidates,
        wave_counts=tx.counts(name, state.wave) if state.phase in LIVE else Counts(),
        offers=_offers(tx.waiting(name, state.wave, BATCH)) if running else (),
        returns=_offers(tx.recalled(name, back, BATCH), free=True),
        returning=tx.returning(name) if state.phase is Phase.ROLLING_BACK else 0,
        held_back=_offers(tx.held_back(name, BATCH)) if done else (),
        judgement=judgement,
        filed_by=rollout.filed_by,
    )


def _offers(boxes: list[BoxProgress], *, free: bool = False) -> tuple[Offer, ...]:
    """Going back costs no bytes: boxes keep what they had before."""
    return tuple(Offer(box.box, 0 if free else box.size_bytes) for box in boxes)


def carry_out(
    tx: Tx, rollout: Rollout, decision: Decision, now: float, facts: list[BoxFacts]
) -> None:
    """Store what follows from a decision. `facts`: of the boxes that take part, for `Enlist`."""
    for effect in decision.effects:
        if isinstance(effect, SetWant):
            box = tx.box(rollout.id, effect.box)
            assert box is not None
            generation = tx.want(rollout, box, effect.aim, now)
            if generation is None:  # it belongs to another rollout by now
                after = replace(box, status=Status.SUPERSEDED, pair=PairState.DONE)
            else:
                after = offered(box, effect.aim, generation, now)
            tx.put_box(rollout.id, after)
        elif isinstance(effect, Enlist):
            _enlist(tx, rollout, facts)
        else:
            for box in tx.lost(rollout.id):
                tx.put_box(rollout.id, reopened(box))


def _enlist(tx: Tx, rollout: Rollout, facts: list[BoxFacts]) -> None:
    strata, by_box = strata_of(facts), {one.box: one for one in facts}
    waves, artefact = rollout.plan.waves, rollout.artefact
    members = enlist(
        [Candidate(one.box, strata[one.box], artefact.bytes_for(one)) for one in facts],
        rollout.id,
        waves.shares,
        least_boxes=waves.least_boxes,
        hold_back=waves.hold_back,
    )
    tx.add_boxes(
        rollout.id,
        [
            BoxProgress(
                box=one.box, stratum=one.stratum, wave=one.wave, place=one.place,
                size_bytes=one.size_bytes, partner=one.partner, base=by_box[one.box].base,
                base_generation=by_box[one.box].base_generation,
            )
            for one in members
        ],
    )  # fmt: skip
    count = 1 + max((one.wave for one in members), default=HOLD_BACK)
    tx.begin(rollout.id, sorted(set(strata.values())), count)
