"""The loop of ingest: many messages, one commit, then the acknowledgements.

Rules
- Nothing is acknowledged before it was committed. A crash between the two makes boxes send again
  what is known already.
- A commit takes what has come within a short wait, up to a number: one fsync for many boxes.
- A commit that fails loses nothing: its messages were not acknowledged, boxes send them again.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from edge_runtime.agent.protocol import Ack, Channel, LogChunk, quality, topic
from edge_runtime.errors import EdgeError, TransportError
from fleet.db.database import Database
from fleet.ingest.decode import Dropped, Heard, Message, decode
from fleet.ingest.rows import Keep, Stored, age_out, store
from fleet.ingest.stats import IngestStats
from fleet.link import Link

log = structlog.get_logger(__name__)

_MAX_MARKS: Final = 16
AGE_EVERY_S: Final = 300.0
_LOGGED_DROPS: Final = 20
"""How many thrown away messages of a commit are logged one by one."""


@dataclass(frozen=True)
class IngestRules:
    """See `IngestSettings`. `passwords`: boxes show passwords, not certificates."""

    commit_messages: int
    commit_wait_s: float
    keep: Keep
    passwords: bool = True


@dataclass
class Ingest:
    """Takes messages from the link into the database."""

    database: Database
    link: Link
    rules: IngestRules
    now: Callable[[], float]
    on_log: Callable[[str, LogChunk], None] = field(default=lambda _principal, _chunk: None)
    stats: IngestStats = field(default_factory=IngestStats)

    async def run(self) -> None:
        """Take messages for ever; ends when cancelled, between two commits."""
        while True:
            await self.take(await self._gather())

    async def run_ageing(self) -> None:
        """Delete what is too old, every few minutes; ends when cancelled."""
        while True:
            try:
                await self.database.write(lambda c: age_out(c, self.rules.keep, now_s=self.now()))
            except EdgeError as error:
                log.warning("telemetry was not aged", action="ingest.age", error=str(error))
            await asyncio.sleep(AGE_EVERY_S)

    async def _gather(self) -> list[Message]:
        """The next messages: at least one, at most a commit's worth."""
        inbox = self.link.inbox
        found = [await inbox.get()]
        try:
            async with asyncio.timeout(self.rules.commit_wait_s):
                while len(found) < self.rules.commit_messages:
                    found.append(await inbox.get())
        except TimeoutError:
            pass
        return found

    async def take(self, messages: Sequence[Message]) -> Stored:
        """Decode, commit, acknowledge. Raises nothing of ours; a failed commit is counted."""
        decoded = await asyncio.to_thread(lambda: [decode(message) for message in messages])
        self.stats.counts["messages"] += len(messages)
        self._count_dropped([one for one in decoded if isinstance(one, Dropped)])
        heard = [one for one in decoded if isinstance(one, Heard)]
        work = functools.partial(
            store, messages=heard, now_s=self.now(), promote=self.rules.passwords
        )
        try:
            stored = await self.database.write(work)
        except EdgeError as error:
            self.stats.counts["failed_commits"] += 1
            log.error(  # noqa: TRY400 - the reason is told, the trace says nothing more
                "messages were not stored", action="ingest.failed", messages=len(heard),
                error=str(error),
            )  # fmt: skip
            return Stored()
        self.stats.counts["commits"] += 1
        self.stats.counts.update(stored.counts)
        self.stats.last_commit_s = self.now()
        for principal, chunk in stored.logs:
            self.on_log(principal, chunk)
        await self._acknowledge(stored)
        return stored

    def _count_dropped(self, dropped: Sequence[Dropped]) -> None:
        for number, one in enumerate(dropped):
            self.stats.counts[f"dropped:{one.reason}"] += 1
            if number < _LOGGED_DROPS:
                log.warning(
                    "message thrown away", action="ingest.dropped", reason=one.reason,
                    detail=one.detail,
                )  # fmt: skip

    async def _acknowledge(self, stored: Stored) -> None:
        for principal, marks in stored.acks.items():
            # The newest streams of a box; older ones are told when they come up again.
            newest = dict(list(marks.items())[-_MAX_MARKS:])
            ack = Ack(now_s=int(self.now()), marks=newest)
            try:
                await self.link.publish(
                    topic(principal, Channel.ACK), ack.to_bytes(), qos=quality(Channel.ACK)
                )
            except TransportError:
                self.stats.counts["failed_acks"] += 1
            else:
                self.stats.counts["acks"] += 1
