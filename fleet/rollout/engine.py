"""The engine: the only one that acts for rollouts.

Rules
- A tick takes in what boxes said, judges, decides and stores all of it in one transaction; then it
  publishes what is stored. Whatever interrupts it, the next tick goes on from what is stored.
- What it keeps in memory (guards fed so far) can be made again from the store, and is thrown away
  whenever a transaction fails.
- Silence of boxes is counted only from the moment this control host has been listening: its own
  absence is not theirs.
- Two engines on one store do no harm: a decision on an old version is refused and made again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import structlog

from edge_runtime.errors import EdgeError, TransportError, UsageError
from edge_runtime.stats.verdict import Verdict
from fleet.rollout.evidence import Evidence
from fleet.rollout.guards import Guard, judge, runs_of
from fleet.rollout.inventory import Artefact, BoxFacts, why_not
from fleet.rollout.machine import Rules, decide
from fleet.rollout.plan import RolloutPlan
from fleet.rollout.states import (
    ENDED,
    LIVE,
    Action,
    Cause,
    Command,
    Decision,
    Judgement,
    Phase,
    RolloutState,
    Tick,
    View,
)
from fleet.rollout.steps import BATCH, carry_out, observe, view_of
from fleet.rollout.store import ConflictError, Rollout, Store, Transport, Tx, Unpublished
from fleet.rollout.verdicts import Record, Rows, record_of

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass
class Bench:
    """Guards of one rollout, fed up to row `rows.last`; and their newest records."""

    guards: tuple[Guard, ...]
    rows: Rows = field(default_factory=Rows)
    records: dict[str, Record] = field(default_factory=dict)

    def feed(self, rows: list[Evidence]) -> None:
        """The next rows, in order."""
        for row in rows:
            self.rows.add(row)
            for guard in self.guards:
                guard.feed(row)


class RolloutEngine:
    """Drives all rollouts of a store. `listening_since_s` is set anew at every reconnect.

    Without a `transport` it only takes plans and orders: what they lead to is published by the
    engine that has one.
    """

    def __init__(
        self,
        store: Store,
        transport: Transport | None,
        clock: Callable[[], float],
        *,
        make_id: Callable[[], str] = lambda: f"r-{secrets.token_hex(5)}",
    ) -> None:
        self._store, self._transport, self._clock = store, transport, clock
        self._make_id = make_id
        self._benches: dict[str, Bench] = {}
        self.listening_since_s = clock()

    async def file(self, plan: RolloutPlan, artefact: Artefact, actor: str) -> str:
        """Store a plan as a draft, or approved where the plan asks for nobody; its id.

        The plan's release must be known (`catalogue.resolved`).
        """
        if not plan.change.release:
            raise UsageError("the plan names no release; look it up first", code="invalid_plan")
        rollout, now = self._make_id(), self._clock()

        def work(tx: Tx) -> None:
            state = RolloutState(since_s=now)
            tx.add_rollout(Rollout(rollout, plan, artefact, state, actor, now))
            if not plan.approval.required:
                approve = Command(Action.APPROVE, actor, "the plan asks for no approval")
                self._apply(tx, tx.rollout(rollout), approve, View(now), [])

        await self._store.write(work)
        if self._transport is not None:
            log.info("rollout filed", action="rollout_filed", rollout=rollout, actor=actor)
        return rollout

    async def order(self, rollout: str, command: Command) -> RolloutState:
        """A person's order; the state it led to. Raises `UsageError` when it is not allowed."""
        decision = await self._write(rollout, lambda tx: self._advance(tx, rollout, command))
        self._log_transitions(rollout, decision)
        await self._publish(rollout)
        return decision.state

    async def tick(self) -> None:
        """One round over all rollouts that may have something to do.

        An error of one rollout is logged and does not stop the others. Raises nothing of ours.
        """
        for rollout in await self._store.read(lambda tx: tx.working()):
            try:
                await self._step(rollout)
            except ConflictError:
                continue
            except EdgeError as error:
                log.warning(
                    "rollout tick failed", action="rollout_tick_failed", rollout=rollout,
                    error=str(error),
                )  # fmt: skip

    async def _step(self, rollout: str) -> None:
        decision = await self._write(rollout, lambda tx: self._advance(tx, rollout, Tick()))
        self._log_transitions(rollout, decision)
        await self._publish(rollout)

    async def run(self, interval_s: float = 2.0) -> None:
        """Tick for ever; ends when cancelled."""
        while True:
            await self.tick()
            await asyncio.sleep(interval_s)

    async def _write(self, rollout: str, work: Callable[[Tx], T]) -> T:
        try:
            return await self._store.write(work)
        except BaseException:
            self._benches.pop(rollout, None)  # it may hold rows that were not committed
            raise

    async def _publish(self, rollout: str) -> None:
        """Publish what is stored and not published; what fails stays for the next tick."""
        while self._transport is not None:
            waiting = await self._store.read(lambda tx: tx.unpublished(rollout, BATCH))
            if not waiting:
                return
            sent = []
            try:
                for one in waiting:
                    await self._transport.publish_want(one.box, one.document)
                    sent.append(one)
            except TransportError as error:
                log.warning(
                    "wants not published", action="wants_not_published", rollout=rollout,
                    waiting=len(waiting) - len(sent), error=str(error),
                )  # fmt: skip
            if sent:
                await self._store.write(_marking(rollout, sent))
            if len(sent) < len(waiting):
                return

    def _log_transitions(self, rollout: str, decision: Decision) -> None:
        if self._transport is None:  # a command, whose output is for people; history has it
            return
        for entry in decision.transitions:
            log.info(
                "rollout transition", action="rollout_transition", rollout=rollout,
                before=entry.before.value, after=entry.after.value, wave=entry.wave,
                actor=entry.actor, reason=entry.reason,
            )  # fmt: skip

    # One transaction.

    def _advance(self, tx: Tx, rollout: str, cause: Cause) -> Decision:
        now, found = self._clock(), tx.rollout(rollout)
        observe(tx, found, now, self.listening_since_s)
        judgement = self._judge(tx, found, now)
        facts: list[BoxFacts] = []
        if found.state.phase is Phase.APPROVED and isinstance(cause, Tick):
            everyone = tx.facts(found, now)
            facts = [one for one in everyone if why_not(one, found.artefact) is None]
        view = view_of(tx, found, now, judgement, len(facts))
        decision = self._apply(tx, found, cause, view, facts)
        settled = decision.state == found.state and found.state.phase in ENDED
        if settled and not (view.returns or view.held_back or tx.unfinished(rollout)):
            tx.rest(rollout)
        return decision

    def _judge(self, tx: Tx, rollout: Rollout, now: float) -> Judgement:
        """What the guards say; verdicts that are new are stored."""
        if rollout.state.phase not in LIVE:
            return Judgement(Verdict.INSUFFICIENT, "guards rest")
        bench = self._bench(tx, rollout)
        bench.feed(tx.evidence(rollout.id, bench.rows.last))
        guards, wave = rollout.plan.guards, rollout.state.wave
        found = [guard.finding() for guard in bench.guards]
        for finding in found:
            known = bench.records.get(finding.guard)
            new = known is None or (known.verdict, known.wave) != (finding.verdict, wave)
            at_gate = rollout.state.phase in (Phase.BAKING, Phase.HOLDING)
            if known is None or new or (at_gate and known.upto != bench.rows.last):
                record = record_of(
                    replace(finding, upto=bench.rows.last), guards, rollout.strata,
                    wave=wave, at_s=now, rows_sha256=bench.rows.sha256(),
                )  # fmt: skip
                number = tx.add_record(rollout.id, record)
                bench.records[finding.guard] = replace(record, id=number)
        numbers = sorted(record.id for record in bench.records.values())
        return judge(guards, found, wave, numbers)

    def _bench(self, tx: Tx, rollout: Rollout) -> Bench:
        bench = self._benches.get(rollout.id)
        if bench is None:
            bench = Bench(runs_of(rollout.plan.guards, rollout.strata))
            bench.records = {record.guard: record for record in tx.records(rollout.id)}
            self._benches[rollout.id] = bench
        return bench

    def _apply(
        self, tx: Tx, rollout: Rollout, cause: Cause, view: View, facts: list[BoxFacts]
    ) -> Decision:
        """Decide, and store the decision with everything that follows from it."""
        decision = decide(Rules.of(rollout.plan), rollout.state, view, cause)
        if decision.state == rollout.state:
            return decision
        tx.put_state(rollout.id, decision.state)
        tx.add_transitions(rollout.id, decision.transitions)
        if decision.state.phase not in LIVE:
            self._benches.pop(rollout.id, None)
        carry_out(tx, rollout, decision, view.now_s, facts)
        return decision


def _marking(rollout: str, sent: list[Unpublished]) -> Callable[[Tx], None]:
    return lambda tx: tx.mark_published(rollout, sent)
