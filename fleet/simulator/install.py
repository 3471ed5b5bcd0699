"""From what is wanted to what serves, by the agent's own decider, on an invented disk.

Rules
- Every decision is `edge_runtime.agent.decide`'s. What is invented here: how long actions take,
  how they end, and what lies on the disk.
- `Stored` is what survives the power; everything else of a box is gone with it. A record is in
  there before its action begins, as on a real box.
- A power cut in the middle of a swap leaves the old pointer or the new one, by chance. One in a
  download leaves the whole blocks.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from edge_runtime.agent.decide import (
    ActionKind,
    Done,
    Facts,
    GaveUp,
    HealthFacts,
    ItemRecord,
    Offer,
    Outcome,
    Policy,
    TryAgain,
    cancel,
    next_step,
    observe,
    report,
    resume,
    take,
    withdraw,
)
from edge_runtime.agent.protocol import (
    ENDS,
    REMEMBERED_ORDERS,
    BoxState,
    Cancel,
    DeferReason,
    FailureCode,
    ItemKind,
    ItemReport,
    Want,
    WantItem,
)
from fleet.simulator.spool import Spool
from fleet.simulator.world import BoxSpec, World

BLOCK_BYTES: Final = 2 << 20
GOLDEN_AFTER_S: Final = 20.0
MAX_STEPS: Final = 16
"""Steps without an action in a row; the decider needs three at most."""


@dataclass(slots=True)
class Pointer:
    """What serves under a name, and what served before."""

    active: str | None = None
    previous: str | None = None


@dataclass(slots=True)
class Stored:
    """What a box has on its disk."""

    spool: Spool
    generation: int = 0
    issued_s: int = 0
    connection: int = 0
    items: dict[str, ItemRecord] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    orders: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED_ORDERS))
    crashes: int = 0
    pointers: dict[str, Pointer] = field(default_factory=dict)
    staged: set[str] = field(default_factory=set)
    blocks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a box knows besides its items. `now_s` None: it has no time it may believe."""

    boot: str
    uptime_s: float
    now_s: int | None
    disk_free_bytes: int
    metered: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """The action in progress, and how it will end. Times are uptimes, in seconds."""

    key: str
    generation: int
    action: ActionKind
    began_s: float
    ends_s: float
    outcome: Outcome
    bytes_before: int = 0
    bytes_s: float = 0.0


class Installer:
    """One boot of a box's agent. Call `boot` once, then `advance` whenever something changed."""

    def __init__(
        self,
        spec: BoxSpec,
        world: World,
        stored: Stored,
        policy: Policy,
        rng: random.Random,
        *,
        link_bytes_s: float,
        corrupt_share: float,
    ) -> None:
        self._spec, self._world, self._policy, self._rng = spec, world, policy, rng
        self._link_bytes_s, self._corrupt_share = link_bytes_s, corrupt_share
        self.stored = stored
        self.running: Running | None = None
        self._serving_since_s: dict[str, float] = {}

    # What comes in.

    def boot(self, moment: Moment, *, clean: bool) -> None:
        """Settle every item after a start."""
        stored = self.stored
        stored.crashes += 0 if clean else 1
        for key, record in stored.items.items():
            facts = self.facts(record, moment)
            stored.items[key] = resume(record, facts, self._policy, clean=clean)

    def want(self, want: Want) -> bool:
        """Take what is new in a verified want. False when nothing was."""
        stored = self.stored
        if want.generation <= stored.generation:
            return False
        wanted = {item.key: item for item in want.items}
        for key, item in wanted.items():
            taken = take(stored.items.get(key), item, stored.floors.get(key, 1))
            if taken.offer is Offer.TAKEN:
                stored.items[key] = taken.record
        for key, held in stored.items.items():
            if key not in wanted:
                stored.items[key] = withdraw(held)
        stored.generation = want.generation
        stored.issued_s = max(stored.issued_s, want.issued_s)
        self._stop_unwanted()
        return True

    def cancel(self, order: Cancel) -> None:
        """Obey a cancel order, if it is not too late."""
        key = f"{order.kind}/{order.name}"
        if key in self.stored.items:
            self.stored.items[key] = cancel(self.stored.items[key], order.generation)
            self._stop_unwanted()

    def advance(self, moment: Moment) -> float:
        """Do everything that is due; seconds until there is more. One action at a time."""
        running = self.running
        if running is not None and running.ends_s <= moment.uptime_s:
            self._end(running, moment)
        wake_s = self._decide(moment)
        if self.running is not None:
            wake_s = min(wake_s, self.running.ends_s - moment.uptime_s)
        return max(0.0, wake_s)

    def power_lost(self, uptime_s: float) -> None:
        """What the disk holds when the power goes in the middle of an action."""
        running, self.running = self.running, None
        if running is None or running.generation != self.stored.items[running.key].generation:
            return
        item = self.stored.items[running.key].item
        if running.action is ActionKind.FETCH:
            self._keep_blocks(running, item, uptime_s)
            return
        done = (uptime_s - running.began_s) / max(1e-9, running.ends_s - running.began_s)
        if isinstance(running.outcome, Done) and self._rng.random() < done:
            self._moved(running.action, item)

    # What goes out.

    def reports(self, moment: Moment) -> tuple[ItemReport, ...]:
        """Every wanted item, and what serves without being wanted."""
        told = []
        for record in self.stored.items.values():
            item = record.item
            facts = self.facts(record, moment)
            bytes_done = min(item.bytes_full, self._bytes_done(item, moment.uptime_s))
            told.append(
                report(
                    record,
                    facts,
                    bytes_done=bytes_done,
                    bytes_total=item.bytes_full,
                    **self._described(facts.active),
                )
            )
        for key, pointer in self.stored.pointers.items():
            kind, _, name = key.partition("/")
            if key not in self.stored.items and pointer.active is not None:
                told.append(
                    ItemReport(
                        kind=ItemKind(kind),
                        name=name,
                        state=BoxState.IDLE,
                        active=pointer.active,
                        previous=pointer.previous,
                        **self._described(pointer.active),
                    )
                )
        return tuple(told)

    def serving(self) -> str | None:
        """The digest of what answers requests."""
        pointer = self.stored.pointers.get(f"{ItemKind.BUNDLE}/{self._spec.model}")
        return None if pointer is None else pointer.active

    def facts(self, record: ItemRecord, moment: Moment) -> Facts:
        """What the decider is told about one item."""
        item, stored = record.item, self.stored
        pointer = stored.pointers.get(item.key, Pointer())
        return Facts(
            boot=moment.boot,
            uptime_s=moment.uptime_s,
            now_s=moment.now_s,
            active=pointer.active,
            previous=pointer.previous,
            staged=item.digest in stored.staged
            or item.digest in (pointer.active, pointer.previous),
            disk_free_bytes=moment.disk_free_bytes + stored.blocks.get(item.digest, 0),
            metered=moment.metered,
            turn=self.running is None or self.running.key == item.key,
            jitter=self._rng.random(),
            health=self._health(record, moment.uptime_s),
        )

    # Inside.

    def _decide(self, moment: Moment) -> float:
        stored, wake_s = self.stored, 3600.0
        for _ in range(MAX_STEPS):
            again = False
            for key in sorted(stored.items, key=lambda key: stored.items[key].generation):
                held, running = stored.items[key], self.running
                mine = running is not None and running.key == key
                if mine and running is not None and running.action is not ActionKind.FETCH:
                    continue
                plan = next_step(held, self.facts(held, moment), self._policy)
                if mine:
                    if plan.action is not ActionKind.FETCH:
                        self._stop(moment.uptime_s)
                        stored.items[key], again = plan.record, True
                    continue
                stored.items[key] = plan.record
                if plan.wake_s is not None:
                    wake_s = min(wake_s, plan.wake_s)
                if plan.action is not None and self.running is None:
                    self._begin(plan.action, plan.record, moment)
                elif plan.record != held and plan.action is None:
                    again = True
                    self._tidy(plan.record)
            if not again:
                break
        return wake_s

    def _begin(self, action: ActionKind, record: ItemRecord, moment: Moment) -> None:
        item = record.item
        before = self.stored.blocks.get(item.digest, 0)
        took_s, outcome = self._foreseen(action, item, before)
        rate = (item.bytes_full - before) / took_s if action is ActionKind.FETCH else 0.0
        self.running = Running(
            item.key, record.generation, action, moment.uptime_s, moment.uptime_s + took_s,
            outcome, before, rate,
        )  # fmt: skip

    def _foreseen(self, action: ActionKind, item: WantItem, before: int) -> tuple[float, Outcome]:
        rng, spec = self._rng, self._spec
        match action:
            case ActionKind.VERIFY:
                return rng.uniform(0.5, 2.0), self._trusted(item)
            case ActionKind.FETCH:
                rate = min(self._link_bytes_s, item.rate_bytes_s or self._link_bytes_s)
                took_s = 1.0 + max(0, item.bytes_full - before) / rate * rng.uniform(1.0, 1.5)
                if rng.random() < self._corrupt_share:
                    why = "the source sent other bytes than those that were signed"
                    return took_s, TryAgain(DeferReason.NETWORK, FailureCode.TRANSFER, why)
                return took_s, Done()
            case ActionKind.ACTIVATE:
                cpu = spec.hardware.cpu_model
                if self._world.refuses(item.digest, spec.principal, cpu):
                    return rng.uniform(3, 8), GaveUp(FailureCode.REFUSED, f"fails on {cpu}")
                return rng.uniform(4, 15), Done()
            case ActionKind.REVERT:
                return rng.uniform(2, 6), Done()

    def _trusted(self, item: WantItem) -> Outcome:
        if item.kind is ItemKind.BUNDLE and item.digest not in self._world.bundles:
            return GaveUp(FailureCode.UNTRUSTED, "no signed metadata names it")
        floor = max(item.release_floor, self.stored.floors.get(item.key, 1))
        self.stored.floors[item.key] = floor
        return Done()

    def _end(self, running: Running, moment: Moment) -> None:
        self.running = None
        held = self.stored.items[running.key]
        if isinstance(running.outcome, Done) and held.generation == running.generation:
            self._moved(running.action, held.item)
            if running.action is ActionKind.ACTIVATE:
                self._serving_since_s[running.key] = moment.uptime_s
        self.stored.items[running.key] = observe(
            held,
            running.action,
            running.generation,
            running.outcome,
            facts=self.facts(held, moment),
            policy=self._policy,
        )
        self._tidy(self.stored.items[running.key])

    def _moved(self, action: ActionKind, item: WantItem) -> None:
        """What an action that succeeded changes on the disk; done twice it changes nothing more."""
        pointer = self.stored.pointers.setdefault(item.key, Pointer())
        if action is ActionKind.FETCH:
            self.stored.staged.add(item.digest)
            self.stored.blocks.pop(item.digest, None)
        elif action is ActionKind.ACTIVATE and pointer.active != item.digest:
            pointer.previous, pointer.active = pointer.active, item.digest
        elif action is ActionKind.REVERT and pointer.active == item.digest:
            pointer.active, pointer.previous = pointer.previous, None

    def _stop_unwanted(self) -> None:
        """Stop a download whose item moved on; what swaps models is waited for."""
        running = self.running
        if running is None or running.action not in (ActionKind.VERIFY, ActionKind.FETCH):
            return
        held = self.stored.items[running.key]
        if held.generation != running.generation or held.state in ENDS:
            self.running = None

    def _stop(self, uptime_s: float) -> None:
        running, self.running = self.running, None
        if running is not None:
            self._keep_blocks(running, self.stored.items[running.key].item, uptime_s)

    def _keep_blocks(self, running: Running, item: WantItem, uptime_s: float) -> None:
        if running.action is ActionKind.FETCH:
            done = running.bytes_before + (uptime_s - running.began_s) * running.bytes_s
            self.stored.blocks[item.digest] = int(done) // BLOCK_BYTES * BLOCK_BYTES

    def _bytes_done(self, item: WantItem, uptime_s: float) -> int:
        running = self.running
        if running is None or running.key != item.key or running.action is not ActionKind.FETCH:
            return self.stored.blocks.get(item.digest, 0)
        return running.bytes_before + int((uptime_s - running.began_s) * running.bytes_s)

    def _tidy(self, record: ItemRecord) -> None:
        """What was downloaded for an item that ended is of no use to anybody."""
        if record.state not in ENDS:
            return
        items = self.stored.items.values()
        keep = {one.item.digest for one in items if one.state not in ENDS}
        self.stored.staged &= keep
        self.stored.blocks = {d: size for d, size in self.stored.blocks.items() if d in keep}

    def _described(self, digest: str | None) -> dict[str, object]:
        bundle = self._world.bundles.get(digest or "")
        if bundle is None:
            return {}
        return {
            "version": bundle.version,
            "release": bundle.release,
            "model_digest": bundle.model_digest,
        }

    def _health(self, record: ItemRecord, uptime_s: float) -> HealthFacts:
        """What the box itself would have counted since the activation, without the noise."""
        if record.state is not BoxState.PROBATION:
            return HealthFacts()
        digest, spec = record.item.digest, self._spec
        flaws = self._world.flaws(digest)
        served_s = uptime_s - self._serving_since_s.get(record.item.key, 0.0)
        requests = int(served_s * spec.requests_per_s)
        wrong = self._world.answers_wrong(digest, spec.principal, spec.hardware.cpu_model)
        return HealthFacts(
            requests=requests,
            errors=int(requests * flaws.error_share),
            routed=requests,
            escalated=int(requests * min(1.0, spec.escalates + flaws.escalation_shift)),
            before_routed=10_000,
            before_escalated=int(10_000 * spec.escalates),
            golden_ok=None if served_s < GOLDEN_AFTER_S else not wrong,
        )
