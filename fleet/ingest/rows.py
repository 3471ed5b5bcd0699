"""The tables of telemetry: many messages in one transaction.

Rules
- What a message adds and the watermark that says so are written together. Whoever sends it again
  changes nothing.
- Marks, hours and rows of a transaction are read once and written once, however many messages
  touch them.
- Boxes that are not let in, or were put out, are not listened to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import zstandard
from sqlalchemy import Connection, and_, delete, select, update

from edge_runtime.agent.protocol import (
    Have,
    Link,
    LogChunk,
    TelemetryRow,
    mark_key,
    shard_of,
)
from fleet.db.tables import boxes
from fleet.db.tables_telemetry import (
    box_hours,
    cost_hours,
    fleet_hours,
    telemetry_marks,
    telemetry_rows,
)
from fleet.db.upsert import insert_new, upsert
from fleet.enrol import credentials
from fleet.ingest.costs import CostWork
from fleet.ingest.decode import Batch, Heard, time_of
from fleet.ingest.marks import Mark, take
from fleet.ingest.sums import Sums, sums_of_row
from fleet.registry import reports

HOUR_S: Final = 3600
_LEVEL: Final = 3
_CHUNK: Final = 500

_Stream = tuple[str, str, str]
"""Principal, boot, stream."""


@dataclass
class Stored:
    """What a transaction came to. `acks`: by principal, the watermarks to tell it."""

    acks: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    logs: list[tuple[str, LogChunk]] = field(default_factory=list)
    rotated: list[str] = field(default_factory=list)


def store(
    connection: Connection, messages: Sequence[Heard], *, now_s: float, promote: bool = True
) -> Stored:
    """Take in `messages`. `promote`: a new connection proves that a new password was used."""
    work = _Work(connection, now_s, promote)
    known = _active(connection, {message.principal for message in messages})
    for message in messages:
        if message.principal in known:
            work.take(message)
        else:
            work.done.counts["dropped:unknown_box"] += 1
    work.finish()
    return work.done


class _Work:
    """One transaction in the making."""

    def __init__(self, connection: Connection, now_s: float, promote: bool) -> None:
        self.connection, self.now_s, self.promote = connection, now_s, promote
        self.done = Stored()
        self.heard: dict[str, float] = {}
        self.marks: dict[_Stream, Mark] = {}
        self.rows: list[dict[str, object]] = []
        self.hours: dict[tuple[str, str, int], Sums] = {}
        self.costs = CostWork()

    def take(self, message: Heard) -> None:
        said = message.said
        if isinstance(said, Have):
            self._have(message, said)
        elif isinstance(said, Link):
            self._link(message, said)
        elif isinstance(said, LogChunk):
            self.done.logs.append((message.principal, said))
        else:
            self._batch(message, said)

    def _have(self, message: Heard, have: Have) -> None:
        applied = reports.apply_have(
            self.connection, message.principal, have, now_s=message.received_s
        )
        self.done.counts["reports" if applied else "old_reports"] += 1

    def _link(self, message: Heard, link: Link) -> None:
        before = reports.listened_to(self.connection, message.principal)
        current = reports.apply_link(
            self.connection, message.principal, link, now_s=message.received_s
        )
        self.done.counts["links" if current else "old_links"] += 1
        # A connection that is newer than the rotation could only be made with the new password.
        newer = before is not None and link.connection > before.connection
        if self.promote and current and link.up and newer:
            promoted = credentials.promote(self.connection, message.principal, now_s=self.now_s)
            if promoted:
                self.done.rotated.append(message.principal)

    def _batch(self, message: Heard, batch: Batch) -> None:
        self.heard[message.principal] = message.received_s
        header = batch.header
        key = (message.principal, header.boot, header.stream)
        mark = self._mark(key)
        taken = take(mark, header, tuple(row.seq for row in batch.rows))
        if taken is None:
            self.done.counts["dropped:too_many_gaps"] += 1
        else:
            fresh = [row for row in batch.rows if row.seq in taken.fresh]
            self.done.counts["rows"] += len(fresh)
            self.done.counts["duplicate_rows"] += len(batch.rows) - len(fresh)
            self.done.counts["lost_rows"] += taken.mark.given_up - mark.given_up
            for row in fresh:
                self._row(key, row, time_of(row, header, message.received_s), message.received_s)
            self.marks[key] = mark = taken.mark
        acks = self.done.acks.setdefault(message.principal, {})
        acks[mark_key(header.boot, header.stream)] = mark.mark

    def _row(self, key: _Stream, row: TelemetryRow, at_s: float, received_s: float) -> None:
        principal, boot, stream = key
        data = zstandard.ZstdCompressor(level=_LEVEL).compress(
            row.model_dump_json(exclude_none=True, by_alias=True).encode()
        )
        self.rows.append(
            {
                "principal": principal,
                "boot": boot,
                "stream": stream,
                "seq": row.seq,
                "at_s": at_s,
                "received_s": received_s,
                "row": data,
            }
        )
        hour_s = int(at_s // HOUR_S) * HOUR_S
        for digest, sums in sums_of_row(row, at_s).items():
            self.hours.setdefault((principal, digest, hour_s), Sums()).merge(sums)
        if row.cost is not None:
            self.costs.take(principal, row.cost, at_s=at_s, hour_s=hour_s)

    def _mark(self, key: _Stream) -> Mark:
        if key not in self.marks:
            table = telemetry_marks.c
            query = select(table.mark, table.ahead, table.given_up).where(
                table.principal == key[0], table.boot == key[1], table.stream == key[2]
            )
            row = self.connection.execute(query).one_or_none()
            self.marks[key] = (
                Mark()
                if row is None
                else Mark(row.mark, tuple((first, last) for first, last in row.ahead), row.given_up)
            )
        return self.marks[key]

    def finish(self) -> None:
        insert_new(self.connection, telemetry_rows, self.rows)
        self._put_marks()
        self._put_box_hours()
        self._put_fleet_hours()
        for principal, heard_s in self.heard.items():
            self.connection.execute(
                update(boxes)
                .where(boxes.c.principal == principal)
                .values(last_contact_s=heard_s, online=True)
            )
        self.costs.write(self.connection)

    def _put_marks(self) -> None:
        rows = [
            {
                "principal": key[0],
                "boot": key[1],
                "stream": key[2],
                "mark": mark.mark,
                "ahead": [list(one) for one in mark.ahead],
                "given_up": mark.given_up,
                "updated_s": self.now_s,
            }
            for key, mark in self.marks.items()
        ]
        upsert(self.connection, telemetry_marks, rows)

    def _put_box_hours(self) -> None:
        table = box_hours.c
        rows = []
        for (principal, digest, hour_s), sums in self.hours.items():
            query = select(table.sums).where(
                table.principal == principal,
                table.model_digest == digest,
                table.hour_s == hour_s,
            )
            stored = self.connection.execute(query).scalar_one_or_none()
            total = Sums() if stored is None else Sums.of_document(stored)
            rows.append(
                {
                    "principal": principal,
                    "model_digest": digest,
                    "hour_s": hour_s,
                    "sums": total.merge(sums).document(),
                }
            )
        upsert(self.connection, box_hours, rows)

    def _put_fleet_hours(self) -> None:
        table = fleet_hours.c
        added: dict[tuple[str, int, int], Sums] = {}
        for (principal, digest, hour_s), sums in self.hours.items():
            key = (digest, hour_s, shard_of(principal))
            added.setdefault(key, Sums()).merge(sums)
        rows = []
        for (digest, hour_s, shard), sums in added.items():
            query = select(table.sums).where(
                and_(table.model_digest == digest, table.hour_s == hour_s, table.shard == shard)
            )
            stored = self.connection.execute(query).scalar_one_or_none()
            total = Sums() if stored is None else Sums.of_document(stored)
            rows.append(
                {
                    "model_digest": digest,
                    "hour_s": hour_s,
                    "shard": shard,
                    "sums": total.merge(sums).document(),
                }
            )
        upsert(self.connection, fleet_hours, rows)


def _active(connection: Connection, principals: Iterable[str]) -> set[str]:
    names, found = sorted(principals), set[str]()
    for start in range(0, len(names), _CHUNK):
        query = select(boxes.c.principal).where(
            boxes.c.principal.in_(names[start : start + _CHUNK]), boxes.c.status == "active"
        )
        found.update(connection.execute(query).scalars())
    return found


@dataclass(frozen=True)
class Keep:
    """How long each kind of telemetry is kept, in seconds."""

    raw_s: float
    box_s: float
    fleet_s: float


def age_out(connection: Connection, keep: Keep, *, now_s: float) -> Counter[str]:
    """Delete what is older; how many rows of each table. Run it every few minutes.

    Marks go with the hours of their box: nobody sends rows of such an old boot any more.
    """
    bounds = (
        (telemetry_rows, telemetry_rows.c.received_s, now_s - keep.raw_s),
        (box_hours, box_hours.c.hour_s, now_s - keep.box_s),
        (telemetry_marks, telemetry_marks.c.updated_s, now_s - keep.box_s),
        (fleet_hours, fleet_hours.c.hour_s, now_s - keep.fleet_s),
        (cost_hours, cost_hours.c.hour_s, now_s - keep.fleet_s),
    )
    gone: Counter[str] = Counter()
    for table, column, before_s in bounds:
        gone[table.name] += connection.execute(delete(table).where(column < before_s)).rowcount
    return gone
