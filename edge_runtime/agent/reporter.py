"""`have`: the whole reported state, whenever it changed, on connect, and once a day.

A report that cannot be sent is not kept: the next one says everything again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import structlog

from edge_runtime.agent.box import Box
from edge_runtime.agent.link import Link
from edge_runtime.agent.protocol import Channel, Hardware, Have, ItemReport, SpoolState, Versions
from edge_runtime.errors import BundleError, TransportError

log: Final = structlog.get_logger("edge_runtime.agent")

Why = Literal["connected", "changed", "daily", "asked"]
SETTLE_S: Final = 0.2
"""How long a change may wait for the next one, so that quick steps make one report."""


@dataclass(slots=True)
class Reporter:
    """See the module. `labels` are the box's words about itself; `spool` is asked each time."""

    box: Box
    link: Link
    hardware: Hardware
    versions: Versions
    spool: Callable[[], SpoolState]
    labels: dict[str, str] = field(default_factory=dict)
    interval_s: float = 86_400.0
    spread_s: float = 0.0
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _why: Why = "changed"
    _seq: int = 0
    _told: tuple[ItemReport, ...] | None = None
    _first: bool = True

    def look(self) -> None:
        """Report if what would be said is not what was said."""
        if self._told != _without_progress(self.box.reports()):
            self.ask("changed")

    def connected(self) -> None:
        """Somebody listens again."""
        self.ask("connected")

    def ask(self, why: Why) -> None:
        """Report soon."""
        if not self._due.is_set():
            self._why = why
        self._due.set()

    async def run(self) -> None:
        """Report when it is due, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self.interval_s):
                    await self._due.wait()
            except TimeoutError:
                self.ask("daily")
            spread_s, self._first = (self.spread_s if self._first else 0.0), False
            await self.wait(max(SETTLE_S, spread_s * self.box.draw()))
            self._due.clear()
            if not self.link.up:
                continue  # connecting asks again
            try:
                await self._send(self._why)
            except TransportError as error:
                log.info("not reported", action="report_failed", reason=str(error))
            except BundleError:
                log.exception("report impossible", action="report_failed")

    async def _send(self, why: Why) -> None:
        items = self.box.reports()
        self._seq += 1
        document = Have(
            principal=self.box.record.principal,
            boot=self.box.boot,
            seq=self._seq,
            uptime_ms=int(self.box.uptime_s() * 1000),
            clock_s=self.box.clock.stamp_s(),
            connection=self.link.connection,
            generation=self.box.record.generation,
            reason=why,
            items=items,
            hardware=self.hardware,
            versions=self.versions,
            labels=self.labels,
            disk_free_bytes=max(held.free_bytes for held in self.box.holdings.values()),
            metered=self.box.metered,
            crashes=self.box.record.crashes,
            spool=self.spool(),
        )
        await self.link.publish(Channel.HAVE, document.to_bytes())
        self._told = _without_progress(items)


def _without_progress(items: tuple[ItemReport, ...]) -> tuple[ItemReport, ...]:
    """A download's bytes are told along with a change; they are none themselves."""
    return tuple(item.model_copy(update={"bytes_done": 0, "bytes_total": 0}) for item in items)
