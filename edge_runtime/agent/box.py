"""What a box knows of itself while its agent runs: the record, the facts, the reports.

Rules
- The record is stored before what it says is acted on or told.
- One action at a time; an activation or a revert that began is always waited for, a download is
  stopped when it is not wanted any more.
- Facts about the disk are read between actions, so nothing waits for a store that is busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from edge_runtime.agent.clock import Clock
from edge_runtime.agent.decide import (
    ActionKind,
    Facts,
    HealthFacts,
    ItemRecord,
    Offer,
    Policy,
    cancel,
    report,
    resume,
    take,
    withdraw,
)
from edge_runtime.agent.protocol import (
    BoxState,
    Cancel,
    ItemKind,
    ItemReport,
    Want,
)
from edge_runtime.agent.record import BoxRecord, RecordStore
from edge_runtime.agent.shelf import Holdings, Shelf
from edge_runtime.agent.work import Worker

log: Final = structlog.get_logger("edge_runtime.agent")


@dataclass(frozen=True, slots=True)
class Running:
    """The action in progress."""

    key: str
    generation: int
    action: ActionKind


@dataclass(slots=True)
class Box:
    """See the module. Lives on the event loop; `holdings` are refreshed between actions.

    `health` answers for an item key, `load` is the engine's busy share, `describe` more fields of
    an `ItemReport` by kind, name and active digest.
    """

    records: RecordStore
    record: BoxRecord
    shelves: Mapping[ItemKind, Shelf]
    worker: Worker
    clock: Clock
    policy: Policy
    boot: str
    uptime_s: Callable[[], float]
    draw: Callable[[], float]
    health: Callable[[str], HealthFacts] = lambda key: HealthFacts()
    load: Callable[[], float] = lambda: 0.0
    describe: Callable[[ItemKind, str, str], dict[str, Any]] = lambda kind, name, digest: {}
    metered: bool = False
    holdings: dict[ItemKind, Holdings] = field(default_factory=dict)
    running: Running | None = None
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def update(self, change: Callable[[BoxRecord], BoxRecord]) -> BoxRecord:
        """Change the record: durably first, then it counts. Changes come one after another."""
        async with self._writing:
            record = change(self.record)
            if record != self.record:
                await self._save(record)
            return record

    async def _save(self, record: BoxRecord) -> None:
        """Who is cancelled meanwhile waits: no two writes overlap, and none is forgotten."""
        work = asyncio.ensure_future(asyncio.to_thread(self.records.save, record))
        try:
            await asyncio.shield(work)
        finally:
            if not work.done():
                await asyncio.wait([work])
            if work.exception() is None:
                self.record = record

    async def store_item(self, item: ItemRecord) -> None:
        """Keep one item's record."""
        before = self.record.items.get(item.item.key)
        if before is not None and before.state is not item.state:
            log.info(
                "item moved",
                action="item_state",
                item=item.item.key,
                generation=item.generation,
                state=str(item.state),
                before=str(before.state),
                why="" if item.failure is None else item.failure.reason,
            )
        await self.update(lambda record: record.with_item(item))

    async def look(self) -> None:
        """Read what lies on the disk, unless an action is changing it."""
        if self.running is None or self.running.action in (ActionKind.VERIFY, ActionKind.FETCH):
            for kind, shelf in self.shelves.items():
                self.holdings[kind] = await asyncio.to_thread(shelf.holdings)

    async def start(self) -> None:
        """Settle every item after a start; the store has recovered already."""
        await self.look()
        clean = not self.record.running

        def settled(record: BoxRecord) -> BoxRecord:
            crashes = record.crashes + (0 if clean else 1)
            record = record.model_copy(update={"running": True, "crashes": crashes})
            for item in record.items.values():
                record = record.with_item(resume(item, self.facts(item), self.policy, clean=clean))
            return record

        self.clock.signed(self.record.issued_s)
        self.worker.floors.update(self.record.floors)
        await self.update(settled)

    async def stop(self) -> None:
        """Remember that this end was wanted."""
        await self.update(lambda record: record.model_copy(update={"running": False}))

    async def next_connection(self) -> int:
        """The number of the connection that is tried next; stored already."""
        record = await self.update(
            lambda record: record.model_copy(update={"connection": record.connection + 1})
        )
        return record.connection

    async def take(self, want: Want) -> bool:
        """Take what is new in a want that was opened already. False when nothing was."""
        if want.generation <= self.record.generation:
            return False
        self.clock.signed(want.issued_s)
        await self.update(lambda record: self._with_want(record, want))
        return True

    def _with_want(self, record: BoxRecord, want: Want) -> BoxRecord:
        wanted = {item.key: item for item in want.items if item.kind in self.shelves}
        for key, item in wanted.items():
            taken = take(record.items.get(key), item, record.floors.get(key, 1))
            if taken.offer is Offer.TAKEN:
                log.info(
                    "wanted",
                    action="item_wanted",
                    item=key,
                    generation=item.generation,
                    digest=item.digest,
                    rollout=item.rollout,
                )
                record = record.with_item(taken.record)
        for key, held in record.items.items():
            if key not in wanted:
                record = record.with_item(withdraw(held))
        update = {
            "generation": want.generation,
            "issued_s": max(want.issued_s, record.issued_s),
            "sources": want.sources,
        }
        return record.model_copy(update=update)

    async def cancel(self, order: Cancel) -> None:
        """Obey a cancel order, if it is not too late."""
        item = self.record.items.get(f"{order.kind}/{order.name}")
        if item is not None:
            await self.store_item(cancel(item, order.generation))

    async def note_floors(self) -> None:
        """Keep the floors that were verified."""

        def raised(record: BoxRecord) -> BoxRecord:
            for key, floor in self.worker.floors.items():
                record = record.with_floor(key, floor)
            return record

        await self.update(raised)

    def facts(self, item: ItemRecord) -> Facts:
        """What is known about one item now."""
        wanted = item.item
        holdings = self.holdings[wanted.kind]
        pointer = holdings.active.get(wanted.name)
        done, _ = self.worker.progress.get(wanted.key, (0, 0))
        return Facts(
            boot=self.boot,
            uptime_s=self.uptime_s(),
            now_s=self.clock.now_s(),
            active=None if pointer is None else pointer.bundle_digest,
            previous=None if pointer is None else pointer.previous,
            staged=wanted.digest in holdings.staged,
            load=self.load(),
            disk_free_bytes=holdings.free_bytes + done,
            metered=self.metered,
            turn=self.running is None or self.running.key == wanted.key,
            jitter=self.draw(),
            health=self.health(wanted.key),
        )

    def reports(self) -> tuple[ItemReport, ...]:
        """Every wanted item, and what serves without being wanted."""
        told: list[ItemReport] = []
        for item in self.record.items.values():
            facts = self.facts(item)
            done, total = self.worker.progress.get(item.item.key, (0, 0))
            more = self._described(item.item.kind, item.item.name, facts.active)
            told.append(report(item, facts, bytes_done=done, bytes_total=total, **more))
        for kind, holdings in self.holdings.items():
            for name, pointer in holdings.active.items():
                if f"{kind}/{name}" not in self.record.items:
                    told.append(
                        ItemReport(
                            kind=kind,
                            name=name,
                            state=BoxState.IDLE,
                            active=pointer.bundle_digest,
                            previous=pointer.previous,
                            **self._described(kind, name, pointer.bundle_digest),
                        )
                    )
        return tuple(told[:32])

    def _described(self, kind: ItemKind, name: str, active: str | None) -> dict[str, Any]:
        return {} if active is None else self.describe(kind, name, active)
