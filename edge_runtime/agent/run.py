"""The agent: one loop that brings a box to what is wanted of it, with or without a broker.

Rules
- The loop owns the decisions; the link, the reports and the telemetry have tasks of their own,
  so that no message that cannot be sent holds up a box.
- Without a broker everything that was begun goes on: downloads, probation, reverts. Nothing
  that serves depends on any of this.
- A bug in here is logged and the loop begins again after a while; the daemon serves on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from edge_runtime.agent.box import Box, Running
from edge_runtime.agent.decide import ActionKind, Done, ItemRecord, Outcome, next_step, observe
from edge_runtime.agent.link import Link, LinkEvent, Message
from edge_runtime.agent.protocol import (
    ENDS,
    Ack,
    Channel,
    Do,
    Want,
)
from edge_runtime.agent.reporter import Reporter
from edge_runtime.agent.sender import Sender
from edge_runtime.agent.watch import Watch
from edge_runtime.errors import BundleError, EdgeError

log: Final = structlog.get_logger("edge_runtime.agent")

MAX_SLEEP_S: Final = 60.0
MIN_SLEEP_S: Final = 0.05
AFTER_BUG_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Ended:
    """An action is over."""

    running: Running
    outcome: Outcome


@dataclass(slots=True)
class Agent:
    """See the module. `rotate` obeys the order to make a new key, where the box can."""

    box: Box
    link: Link
    reporter: Reporter
    sender: Sender
    watch: Watch
    rotate: Callable[[], Awaitable[None]] | None = None
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    _action: asyncio.Task[None] | None = None
    _ended: asyncio.Queue[_Ended] = field(default_factory=asyncio.Queue)
    _side: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run while inside. Leaving stops a download and waits for an activation to end."""
        await self.box.start()
        self.watch.resume(self.box.record)
        works = (self.link.run(), self._forever(), self.reporter.run(), self.sender.run())
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            yield
        finally:
            await self.sender.flush()
            await self.link.close()
            await _stop([*tasks, *self._side])
            try:
                if self._action is not None:
                    await _stop([self._action])
                    await self._take_ends()
                await self.box.stop()
            except OSError as error:
                # The next start then takes this end for a crash, which is the safe side.
                log.warning("end not stored", action="agent_stop_failed", reason=str(error))

    async def _forever(self) -> None:
        while True:
            try:
                await self._loop()
            except Exception:
                log.exception("the agent failed", action="agent_failed")
                await self.wait(AFTER_BUG_S)

    async def _loop(self) -> None:
        while True:
            await self._take_ends()
            wake_s = await self._decide()
            self.reporter.look()
            event = await self._next_event(wake_s)
            if event is not None:
                await self._handle(event)

    async def _next_event(self, wake_s: float) -> Message | LinkEvent | None:
        """The next message; None when an action ended or it is time to look again."""
        inbox = asyncio.ensure_future(self.link.inbox.get())
        ended = asyncio.ensure_future(self._ended.get())
        try:
            await asyncio.wait((inbox, ended), timeout=wake_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (inbox, ended):
                if not task.done():
                    task.cancel()
            await asyncio.gather(inbox, ended, return_exceptions=True)
            if not ended.cancelled():
                self._ended.put_nowait(ended.result())  # `_take_ends` takes it
        return None if inbox.cancelled() else inbox.result()

    async def _handle(self, event: Message | LinkEvent) -> None:
        if isinstance(event, LinkEvent):
            if event is LinkEvent.UP:
                self.sender.connected()
                self.reporter.connected()
            return
        try:
            match event.channel:
                case Channel.WANT:
                    await self._wanted(event.payload)
                case Channel.DO:
                    await self._ordered(event.payload)
                case Channel.ACK:
                    ack = Ack.from_bytes(event.payload)
                    self.box.clock.told(ack.now_s)
                    await self.sender.acknowledged(ack)
                case _:
                    raise BundleError(str(event.channel), "is not for a box to read")
        except BundleError as error:
            log.warning("message refused", action="message_refused", reason=str(error))

    async def _wanted(self, payload: bytes) -> None:
        want = Want.opened(payload, self.box.worker.trust.want_keys())
        if want.principal != self.box.record.principal:
            raise BundleError("want", f"is for {want.principal}")
        if not await self.box.take(want):
            self.reporter.ask("asked")
            return
        running = self.box.running
        if running is not None:
            await self._stop_unwanted(running)

    async def _ordered(self, payload: bytes) -> None:
        order = Do.opened(payload, self.box.worker.trust.want_keys())
        box = self.box
        if order.principal != box.record.principal:
            raise BundleError("do", f"is for {order.principal}")
        now_s = box.clock.now_s()
        if order.id in box.record.orders or (now_s is not None and now_s >= order.expires_s):
            return
        await box.update(lambda record: record.with_order(order.id))
        log.info("ordered", action="order", order=order.order, id=order.id)
        if order.cancel is not None:
            await box.cancel(order.cancel)
            if box.running is not None:
                await self._stop_unwanted(box.running)
        elif order.log is not None:
            self._beside(self.sender.send_log(order.id, order.log))
        elif order.order == "report":
            self.reporter.ask("asked")
        elif self.rotate is not None:
            self._beside(self.rotate())

    def _beside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._side.add(task)
        task.add_done_callback(self._side_ended)

    def _side_ended(self, task: asyncio.Task[None]) -> None:
        self._side.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("an order failed", action="order_failed", reason=str(error))

    async def _stop_unwanted(self, running: Running) -> None:
        """Stop a download whose item moved on; what swaps models is waited for."""
        held = self.box.record.items.get(running.key)
        working = held is not None and held.generation == running.generation
        if working and held is not None and held.state not in ENDS:
            return
        if running.action in (ActionKind.VERIFY, ActionKind.FETCH) and self._action is not None:
            await _stop([self._action])
            self.box.running = None
            self._action = None

    async def _decide(self) -> float:
        """Plan every item, begin at most one action; seconds until it is worth looking again."""
        box = self.box
        await box.look()
        wake_s = MAX_SLEEP_S
        for key in sorted(box.record.items, key=lambda key: box.record.items[key].generation):
            held = box.record.items[key]
            running = box.running
            if running is not None and running.key == key:
                await self._recheck(running, held)
                continue
            plan = next_step(held, box.facts(held), box.policy)
            if plan.record != held:
                await box.store_item(plan.record)
                self.watch.moved(plan.record)
                await self._tidy(plan.record)
            if plan.wake_s is not None:
                wake_s = min(wake_s, plan.wake_s)
            if plan.action is not None:
                if box.running is None:
                    self._begin(plan.record, plan.action)
            elif plan.record != held:
                wake_s = MIN_SLEEP_S  # a step that needed no action may lead to the next
        return max(MIN_SLEEP_S, wake_s)

    async def _recheck(self, running: Running, held: ItemRecord) -> None:
        """A download goes on only while it still may: the link may have become metered."""
        if running.action is not ActionKind.FETCH:
            return
        plan = next_step(held, self.box.facts(held), self.box.policy)
        if plan.action is not ActionKind.FETCH and self._action is not None:
            await _stop([self._action])
            self._action, self.box.running = None, None
            await self.box.store_item(plan.record)

    def _begin(self, record: ItemRecord, action: ActionKind) -> None:
        running = Running(record.item.key, record.generation, action)
        self.box.running = running
        self._action = asyncio.ensure_future(self._perform(running, record))

    async def _perform(self, running: Running, record: ItemRecord) -> None:
        box = self.box
        outcome = await box.worker.perform(
            running.action, record, box.record.sources, box.clock.now_s()
        )
        self._ended.put_nowait(_Ended(running, outcome))

    async def _take_ends(self) -> None:
        """Store how actions ended."""
        while not self._ended.empty():
            ended = self._ended.get_nowait()
            box, running = self.box, ended.running
            if box.running != running:
                continue
            box.running, self._action = None, None
            await box.look()
            await box.note_floors()
            held = box.record.items.get(running.key)
            if held is None:
                continue
            record = observe(
                held,
                running.action,
                running.generation,
                ended.outcome,
                facts=box.facts(held),
                policy=box.policy,
            )
            await box.store_item(record)
            if running.action is ActionKind.ACTIVATE and isinstance(ended.outcome, Done):
                self.watch.activated(record)
            self.watch.moved(record)
            await self._tidy(record)

    async def _tidy(self, record: ItemRecord) -> None:
        """What was downloaded for an item that ended is of no use to anybody."""
        if record.state not in ENDS:
            return
        keep = frozenset(item.item.digest for item in self.box.record.items.values()
                         if item.state not in ENDS)  # fmt: skip
        shelf = self.box.shelves[record.item.kind]
        try:
            await asyncio.to_thread(self.box.worker.discard, record.item)
            await asyncio.to_thread(shelf.collect, keep)
        except (EdgeError, OSError) as error:
            log.warning("not tidied", action="agent_tidy_failed", reason=str(error))


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
