"""Watches what is on probation: counts since its activation, and its golden answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from edge_runtime.agent.decide import HealthFacts, ItemRecord
from edge_runtime.agent.health import HealthWatch
from edge_runtime.agent.protocol import BoxState, ItemKind
from edge_runtime.agent.record import BoxRecord
from edge_runtime.agent.telemetry import Snapshot
from edge_runtime.errors import EdgeError

log: Final = structlog.get_logger("edge_runtime.agent")

Golden = Callable[[str, str], Awaitable[bool | None]]
"""Whether the model of that name and digest answers its golden inputs right; None: cannot say."""


@dataclass(slots=True)
class Watch:
    """See the module. `snapshot` reads the metrics, `engine_failed` asks the host.

    `mismatch` says of an item key why what runs is not what was activated.
    """

    snapshot: Callable[[], Snapshot]
    engine_failed: Callable[[], bool] = lambda: False
    mismatch: Callable[[str], str] = lambda key: ""
    golden: Golden | None = None
    health: HealthWatch = field(default_factory=HealthWatch)
    _asking: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def resume(self, record: BoxRecord) -> None:
        """Watch again what was on probation when the daemon ended."""
        for item in record.items.values():
            if item.state is BoxState.PROBATION:
                self.activated(item)

    def activated(self, record: ItemRecord) -> None:
        """An item serves from now on."""
        item = record.item
        model = item.name if item.kind is ItemKind.BUNDLE else None
        self.health.begin(item.key, model, self.snapshot())

    def moved(self, record: ItemRecord) -> None:
        """An item changed: begin or end what follows from it."""
        key = record.item.key
        if record.state is BoxState.PROBATION:
            if not self.health.watches(key):
                self.activated(record)
            self._ask(record)
        elif self.health.watches(key) and record.state is not BoxState.REVERTING:
            self.health.end(key)

    def facts(self, key: str) -> HealthFacts:
        """What the decider is told; asks nobody while nothing is watched."""
        if not self.health.watches(key):
            return HealthFacts()
        facts = self.health.facts(key, self.snapshot(), engine_failed=self.engine_failed())
        return replace(facts, mismatch=self.mismatch(key))

    def _ask(self, record: ItemRecord) -> None:
        """Ask the golden inputs once more; each checkpoint of a probation does."""
        item = record.item
        if self.golden is None or item.kind is not ItemKind.BUNDLE or item.key in self._asking:
            return
        work = self._golden(self.golden, item.key, item.name, item.digest)
        task = asyncio.get_running_loop().create_task(work, name="golden")
        self._asking[item.key] = task
        task.add_done_callback(lambda ended: self._asked(item.key, ended))

    def _asked(self, key: str, task: asyncio.Task[None]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("golden answers failed", action="golden_failed", reason=repr(error))

    async def _golden(self, ask: Golden, key: str, name: str, digest: str) -> None:
        try:
            answer = await ask(name, digest)
        except EdgeError as error:
            # A busy or stopping engine is no wrong answer.
            log.info("golden answers not asked", action="golden_skipped", reason=str(error))
            return
        if answer is not None and self.health.watches(key):
            self.health.golden[key] = answer and self.health.golden.get(key, True)
