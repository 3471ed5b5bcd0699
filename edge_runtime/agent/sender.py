"""Telemetry and logs on their way out: rows into the spool, batches to the broker, marks back.

Rules
- What was sent stays in the spool until its watermark comes back. After a reconnect, or when no
  watermark came for long, everything that is left is sent again: the receiver drops copies.
- How far the ledger was read is kept with the row that says what was read: both or neither.
- Log lines go out only on an order, and never more than the day's budget.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog

from edge_runtime.agent.costs import Costs
from edge_runtime.agent.link import Link
from edge_runtime.agent.logs import LogTail
from edge_runtime.agent.protocol import Ack, Channel, PullLog, TelemetryRow
from edge_runtime.agent.spool import Spool
from edge_runtime.agent.telemetry import STREAM, Collector
from edge_runtime.core import ModelInfo
from edge_runtime.errors import TransportError

log: Final = structlog.get_logger("edge_runtime.agent")

DAY_S: Final = 86_400.0
BATCHES_AT_ONCE: Final = 8


@dataclass(slots=True)
class Sender:
    """See the module. `uptime_s` is the daemon's; times are in seconds."""

    link: Link
    spool: Spool
    collector: Collector
    boot: str
    uptime_s: Callable[[], float]
    clock_s: Callable[[], int]
    tail: LogTail | None = None
    costs: Costs | None = None
    interval_s: float = 60.0
    send_s: float = 300.0
    log_budget_bytes: int = 1024 * 1024
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    _cut: list[TelemetryRow] = field(default_factory=list)
    _sent: dict[tuple[str, str], int] = field(default_factory=dict)
    _sent_at_s: float | None = None
    _next_send_s: float = 0.0
    _log_day: int = -1
    _log_bytes: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _cutting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def swapped(self, models: Iterable[ModelInfo]) -> None:
        """A model changes: end the row in which `models` were at work. Does no I/O."""
        self._cut.append(self.collector.cut(models))

    def connected(self) -> None:
        """A new connection: nobody knows what of the old one arrived."""
        self._sent.clear()
        self._next_send_s = self.uptime_s()
        self._wake.set()

    async def acknowledged(self, ack: Ack) -> None:
        """Forget what was committed elsewhere."""
        if ack.marks:
            await asyncio.to_thread(self.spool.acknowledge, ack)
            self._sent_at_s = None
            if self.spool.state().rows:
                self._wake.set()

    async def run(self) -> None:
        """Cut rows and send them, until cancelled."""
        next_cut_s = self.uptime_s() + self.interval_s
        while True:
            due_s = min(next_cut_s, max(self._next_send_s, self.uptime_s() + 0.05))
            if not self.link.up:
                due_s = next_cut_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.05, due_s - self.uptime_s())):
                    await self._wake.wait()
            self._wake.clear()
            try:
                if self.uptime_s() >= next_cut_s:
                    next_cut_s = self.uptime_s() + self.interval_s
                    await self._end_row()
                async with self._cutting:  # rows reach the spool in the order of their numbers
                    await self._keep()
                if self.link.up and self.uptime_s() >= self._next_send_s:
                    await self._send()
            except TransportError as error:
                log.info("telemetry waits", action="telemetry_waits", reason=str(error))
                self._next_send_s = self.uptime_s() + self.send_s
            except Exception:
                log.exception("telemetry failed", action="telemetry_failed")
                self._next_send_s = self.uptime_s() + self.send_s

    async def flush(self) -> None:
        """Keep the row that is open, at the end of the daemon."""
        try:
            await self._end_row()
        except Exception:
            log.exception("telemetry failed", action="telemetry_failed")

    async def send_log(self, order: str, wanted: PullLog) -> None:
        """Answer an order for log lines. Raises `TransportError`."""
        if self.tail is None:
            return
        day = int(self.uptime_s() // DAY_S)
        if day != self._log_day:
            self._log_day, self._log_bytes = day, 0
        for chunk in self.tail.chunks(order, wanted, self.log_budget_bytes - self._log_bytes):
            data = chunk.to_bytes()
            self._log_bytes += len(data)
            await self.link.publish(Channel.LOG, data)

    async def _end_row(self) -> None:
        """End the row that is open, with what was booked since, and keep it."""
        async with self._cutting:
            taken = None if self.costs is None else await asyncio.to_thread(self.costs.take)
            if taken is None:
                self._cut.append(self.collector.cut())
                await self._keep()
                return
            await self._keep()
            row = self.collector.cut(cost=taken.report)
            await asyncio.to_thread(self.spool.add, self.boot, STREAM, row, taken.marks)
            taken.stored()

    async def _keep(self) -> None:
        rows, self._cut = self._cut, []
        for row in rows:
            await asyncio.to_thread(self.spool.add, self.boot, STREAM, row)

    async def _send(self) -> None:
        now_s = self.uptime_s()
        if self._sent_at_s is not None and now_s - self._sent_at_s >= 2 * self.send_s:
            self._sent.clear()  # no watermark came: it, or what it was for, was lost
        batches = await asyncio.to_thread(
            self.spool.batches, dict(self._sent), self.clock_s(), BATCHES_AT_ONCE
        )
        for batch in batches:
            await self.link.publish(Channel.TELEMETRY, batch.message, batch.stream)
            self._sent[batch.boot, batch.stream] = batch.last_seq
            self._sent_at_s = self._sent_at_s or now_s
        full = len(batches) == BATCHES_AT_ONCE
        self._next_send_s = self.uptime_s() + (0.0 if full else self.send_s)
