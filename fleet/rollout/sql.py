"""Rollouts in the control host's database: `Store` on SQLAlchemy, for SQLite and PostgreSQL.

Boxes' reports are read where the registry keeps them (`box_items`), so nothing has to be told
twice: what a box said last is compared with what was used last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Select, and_, bindparam, func, insert, or_, select, update

from edge_runtime.agent.protocol import MAX_BYTES, BoxState, Channel, Want, unchecked_payload
from edge_runtime.errors import UsageError
from fleet.db.database import Database
from fleet.db.tables import box_items, boxes
from fleet.ingest.figures import figures_of
from fleet.ingest.queries import window_sums
from fleet.registry.facts import Limits
from fleet.registry.wants import newest_want, next_want
from fleet.rollout import rows
from fleet.rollout.catalogue import Catalogue
from fleet.rollout.evidence import Evidence
from fleet.rollout.inventory import BoxFacts
from fleet.rollout.pairs import Window
from fleet.rollout.progress import LOST, OPEN, BoxProgress, PairState, Report, Status
from fleet.rollout.signals import Figures
from fleet.rollout.sql_fleet import facts_of_boxes
from fleet.rollout.states import Aim, Counts, Phase, Recall, RolloutState, Transition
from fleet.rollout.store import ConflictError, Rollout, Tx, Unpublished, unknown
from fleet.rollout.tables import (
    rollout_boxes,
    rollout_evidence,
    rollout_history,
    rollout_verdicts,
    rollouts,
)
from fleet.rollout.verdicts import Record
from fleet.rollout.wants import amended, item_of, may_change
from fleet.rollout.waves import HOLD_BACK

T = TypeVar("T")
_OPEN: Final = [one.value for one in OPEN]
_LOST: Final = [one.value for one in LOST]


@dataclass(frozen=True)
class Signing:
    """What documents for boxes are made with."""

    keys: Sequence[Ed25519PrivateKey]
    sources: Sequence[str]


class SqlStore:
    """Rollouts of a database. `limits`: when a box counts as online, for planning."""

    def __init__(
        self, database: Database, signing: Signing, catalogue: Catalogue, limits: Limits
    ) -> None:
        self._database, self._signing = database, signing
        self._catalogue, self._limits = catalogue, limits

    async def write(self, work: Callable[[Tx], T]) -> T:
        """See `Store`."""
        return await self._database.write(lambda connection: work(self.tx(connection)))

    async def read(self, work: Callable[[Tx], T]) -> T:
        """See `Store`."""
        return await self._database.read(lambda connection: work(self.tx(connection)))

    def tx(self, connection: Connection) -> SqlTx:
        """Rollouts within a transaction that somebody else began, to commit both together."""
        return SqlTx(connection, self._signing, self._catalogue, self._limits)


class SqlTx:
    """One transaction; see `Tx`."""

    def __init__(
        self, connection: Connection, signing: Signing, catalogue: Catalogue, limits: Limits
    ) -> None:
        self._connection, self._signing = connection, signing
        self._catalogue, self._limits = catalogue, limits

    # Rollouts.

    def rollout(self, rollout: str) -> Rollout:
        query = select(rollouts).where(rollouts.c.id == rollout)
        row = self._connection.execute(query).mappings().one_or_none()
        if row is None:
            raise unknown(rollout)
        return rows.rollout_of(row)

    def rollouts(self) -> list[Rollout]:
        query = select(rollouts).order_by(rollouts.c.filed_at_s.desc(), rollouts.c.id)
        return [rows.rollout_of(row) for row in self._connection.execute(query).mappings()]

    def working(self) -> list[str]:
        query = (
            select(rollouts.c.id)
            .where(
                rollouts.c.phase != Phase.DRAFT.value,
                rollouts.c.rested_version != rollouts.c.version,
            )
            .order_by(rollouts.c.filed_at_s, rollouts.c.id)
        )
        return list(self._connection.execute(query).scalars())

    def add_rollout(self, rollout: Rollout) -> None:
        self._connection.execute(insert(rollouts).values(rows.rollout_row(rollout)))

    def put_state(self, rollout: str, state: RolloutState) -> None:
        changed = self._connection.execute(
            update(rollouts)
            .where(rollouts.c.id == rollout, rollouts.c.version == state.version - 1)
            .values(rows.state_row(state))
        )
        if changed.rowcount != 1:
            raise ConflictError(rollout)

    def begin(self, rollout: str, strata: Sequence[str], waves: int) -> None:
        self._set(rollout, strata=list(strata), waves=waves)

    def rest(self, rollout: str) -> None:
        self._set(rollout, rested_version=rollouts.c.version)

    def _set(self, rollout: str, **values: Any) -> None:
        self._connection.execute(update(rollouts).where(rollouts.c.id == rollout).values(values))

    def add_transitions(self, rollout: str, entries: Sequence[Transition]) -> None:
        values = [rows.transition_row(rollout, entry) for entry in entries]
        if values:
            self._connection.execute(insert(rollout_history), values)

    def history(self, rollout: str) -> list[Transition]:
        query = select(rollout_history).where(rollout_history.c.rollout == rollout)
        found = self._connection.execute(query.order_by(rollout_history.c.id)).mappings()
        return [rows.transition_of(row) for row in found]

    # Boxes.

    def facts(self, rollout: Rollout, now_s: float) -> list[BoxFacts]:
        return facts_of_boxes(
            self._connection,
            rollout.plan,
            now_s=now_s,
            limits=self._limits,
            bases=self._catalogue.bases(rollout.plan.change.kind, rollout.plan.change.name),
            rollout=rollout.id,
        )

    def add_boxes(self, rollout: str, boxes: Iterable[BoxProgress]) -> None:
        values = [
            {
                "rollout": rollout, "principal": box.box, "published_generation": 0,
                **rows.box_row(box),
            }
            for box in boxes
        ]  # fmt: skip
        if values:
            self._connection.execute(insert(rollout_boxes), values)

    def box(self, rollout: str, box: str) -> BoxProgress | None:
        found = self._boxes(self._of(rollout).where(rollout_boxes.c.principal == box))
        return found[0] if found else None

    def boxes(self, rollout: str, *, after: int = -1, limit: int = 1000) -> list[BoxProgress]:
        query = self._of(rollout).where(rollout_boxes.c.place > after)
        return self._boxes(query.order_by(rollout_boxes.c.place).limit(limit))

    def put_box(self, rollout: str, box: BoxProgress) -> None:
        self._connection.execute(
            update(rollout_boxes)
            .where(rollout_boxes.c.rollout == rollout, rollout_boxes.c.principal == box.box)
            .values(rows.box_row(box))
        )

    @staticmethod
    def _of(rollout: str) -> Select[Any]:
        return select(rollout_boxes).where(rollout_boxes.c.rollout == rollout)

    def _boxes(self, query: Select[Any]) -> list[BoxProgress]:
        return [rows.box_of(row) for row in self._connection.execute(query).mappings()]

    def counts(self, rollout: str, wave: int) -> Counts:
        query = (
            select(rollout_boxes.c.status, func.count())
            .where(rollout_boxes.c.rollout == rollout, rollout_boxes.c.wave == wave)
            .group_by(rollout_boxes.c.status)
        )
        found = {Status(name): count for name, count in self._connection.execute(query)}
        return Counts(
            waiting=found.get(Status.WAITING, 0),
            open=sum(found.get(status, 0) for status in OPEN),
            confirmed=found.get(Status.CONFIRMED, 0),
            lost=sum(found.get(status, 0) for status in LOST),
            superseded=found.get(Status.SUPERSEDED, 0),
        )

    def waiting(self, rollout: str, upto_wave: int, limit: int) -> list[BoxProgress]:
        query = self._of(rollout).where(
            rollout_boxes.c.status == Status.WAITING.value,
            rollout_boxes.c.wave.between(0, upto_wave),
        )
        return self._boxes(query.order_by(rollout_boxes.c.place).limit(limit))

    def held_back(self, rollout: str, limit: int) -> list[BoxProgress]:
        query = self._of(rollout).where(
            rollout_boxes.c.status == Status.WAITING.value, rollout_boxes.c.wave == HOLD_BACK
        )
        return self._boxes(query.order_by(rollout_boxes.c.place).limit(limit))

    def recalled(self, rollout: str, recall: Recall, limit: int) -> list[BoxProgress]:
        if recall is Recall.NONE:
            return []
        query = self._of(rollout).where(
            rollout_boxes.c.generation > 0,
            rollout_boxes.c.aim == Aim.NEW.value,
            rollout_boxes.c.status != Status.SUPERSEDED.value,
        )
        if recall is Recall.UNFINISHED:
            query = query.where(rollout_boxes.c.status != Status.CONFIRMED.value)
        return self._boxes(query.order_by(rollout_boxes.c.place.desc()).limit(limit))

    def returning(self, rollout: str) -> int:
        return self._count(rollout, [Status.RETURNING.value])

    def unfinished(self, rollout: str) -> bool:
        return self._count(rollout, [*_OPEN, Status.RETURNING.value]) > 0

    def _count(self, rollout: str, statuses: Sequence[str]) -> int:
        query = select(func.count()).where(
            rollout_boxes.c.rollout == rollout, rollout_boxes.c.status.in_(statuses)
        )
        return int(self._connection.execute(query).scalar_one())

    def lost(self, rollout: str) -> list[BoxProgress]:
        return self._boxes(self._of(rollout).where(rollout_boxes.c.status.in_(_LOST)))

    def news(self, rollout: str, limit: int) -> list[tuple[BoxProgress, Report]]:
        failure = func.coalesce(box_items.c.failure_kind, "").concat("/").concat(
            func.coalesce(box_items.c.failure_code, "")
        )  # fmt: skip
        used = func.coalesce(func.nullif(rollout_boxes.c.seen_failure, ""), "/")
        said = box_items.c.generation >= rollout_boxes.c.generation
        fresh = or_(
            rollout_boxes.c.seen_state != box_items.c.state,
            rollout_boxes.c.seen_generation != box_items.c.generation,
            used != failure,
        )
        # A box that is to go back to nothing has nothing to report but the document it stored.
        gone = and_(
            rollout_boxes.c.status == Status.RETURNING.value,
            rollout_boxes.c.base.is_(None),
            boxes.c.seen_generation >= rollout_boxes.c.generation,
            or_(box_items.c.generation.is_(None), ~said),
        )
        query = (
            select(
                rollout_boxes,
                box_items.c.generation.label("said_generation"),
                box_items.c.state.label("said_state"),
                box_items.c.failure_kind.label("said_kind"),
                box_items.c.failure_code.label("said_code"),
            )
            .join(rollouts, rollouts.c.id == rollout_boxes.c.rollout)
            .join(boxes, boxes.c.principal == rollout_boxes.c.principal)
            .outerjoin(
                box_items,
                and_(
                    box_items.c.principal == rollout_boxes.c.principal,
                    box_items.c.kind == rollouts.c.kind,
                    box_items.c.name == rollouts.c.name,
                ),
            )
            .where(
                rollout_boxes.c.rollout == rollout,
                rollout_boxes.c.generation > 0,
                rollout_boxes.c.status != Status.SUPERSEDED.value,
                or_(and_(said, fresh), gone),
            )
            .order_by(rollout_boxes.c.place)
            .limit(limit)
        )
        found = []
        for row in self._connection.execute(query).mappings():
            box = rows.box_of(row)
            if row["said_generation"] is None or row["said_generation"] < box.generation:
                found.append((box, Report(box.generation, BoxState.IDLE)))
            else:
                report = rows.report_of(
                    row["said_generation"], row["said_state"], row["said_kind"], row["said_code"]
                )
                found.append((box, report))
        return found

    def quiet(
        self, rollout: str, heard_before_s: float, confirmed_after_s: float, limit: int
    ) -> list[tuple[BoxProgress, float]]:
        heard = func.coalesce(boxes.c.last_contact_s, 0.0)
        query = (
            select(rollout_boxes, heard.label("heard_s"))
            .join(boxes, boxes.c.principal == rollout_boxes.c.principal)
            .where(
                rollout_boxes.c.rollout == rollout,
                rollout_boxes.c.unreachable.is_(False),
                heard < heard_before_s,
                or_(
                    rollout_boxes.c.status == Status.WORKING.value,
                    and_(
                        rollout_boxes.c.status == Status.CONFIRMED.value,
                        rollout_boxes.c.confirmed_at_s >= confirmed_after_s,
                    ),
                ),
            )
            .order_by(rollout_boxes.c.place)
            .limit(limit)
        )
        found = self._connection.execute(query).mappings()
        return [(rows.box_of(row), row["heard_s"]) for row in found]

    def owed(self, rollout: str, serving_before_s: float, limit: int) -> list[BoxProgress]:
        query = self._of(rollout).where(
            rollout_boxes.c.pair == PairState.OWED.value,
            rollout_boxes.c.serving_at_s <= serving_before_s,
        )
        return self._boxes(query.order_by(rollout_boxes.c.place).limit(limit))

    def figures(self, rollout: Rollout, box: str, window: Window) -> Figures:
        del rollout
        sums = window_sums(self._connection, box, window.start_s, window.end_s)
        return figures_of(sums)

    # Evidence and verdicts.

    def add_evidence(self, rollout: str, rows_: Sequence[Evidence]) -> None:
        query = select(func.coalesce(func.max(rollout_evidence.c.seq), 0)).where(
            rollout_evidence.c.rollout == rollout
        )
        last = int(self._connection.execute(query).scalar_one())
        values = [rows.evidence_row(rollout, row, seq) for seq, row in enumerate(rows_, last + 1)]
        if values:
            self._connection.execute(insert(rollout_evidence), values)

    def evidence(self, rollout: str, after: int = 0) -> list[Evidence]:
        query = (
            select(rollout_evidence)
            .where(rollout_evidence.c.rollout == rollout, rollout_evidence.c.seq > after)
            .order_by(rollout_evidence.c.seq)
        )
        return [rows.evidence_of(row) for row in self._connection.execute(query).mappings()]

    def add_record(self, rollout: str, record: Record) -> int:
        query = insert(rollout_verdicts).values(rows.record_row(rollout, record))
        key = self._connection.execute(query).inserted_primary_key
        assert key is not None
        return int(key[0])

    def records(self, rollout: str) -> list[Record]:
        query = select(rollout_verdicts).where(rollout_verdicts.c.rollout == rollout)
        found = self._connection.execute(query.order_by(rollout_verdicts.c.id)).mappings()
        return [rows.record_of_row(row) for row in found]

    # Documents.

    def want(self, rollout: Rollout, box: BoxProgress, aim: Aim, now_s: float) -> int | None:
        newest = parse_want(newest_want(self._connection, box.box))
        if not may_change(newest, rollout.plan, box, rollout.id):
            return None
        make = partial(self._document, newest, rollout, box, aim=aim, now_s=now_s)
        try:
            return next_want(
                self._connection, box.box, make, rollout=rollout.id, now_s=now_s
            )[0]  # fmt: skip
        except UsageError:  # revoked meanwhile
            return None

    def _document(
        self,
        newest: Want | None,
        rollout: Rollout,
        box: BoxProgress,
        generation: int,
        *,
        aim: Aim,
        now_s: float,
    ) -> bytes:
        item = item_of(
            rollout.plan, rollout.artefact, box, aim,
            rollout=rollout.id, generation=generation, now_s=now_s,
        )  # fmt: skip
        want = amended(
            newest, rollout.plan, item,
            principal=box.box, generation=generation, issued_s=int(now_s),
            sources=self._signing.sources,
        )  # fmt: skip
        return want.sealed(self._signing.keys)

    def unpublished(self, rollout: str, limit: int) -> list[Unpublished]:
        query = (
            select(boxes.c.principal, boxes.c.generation, boxes.c.want)
            .join(rollout_boxes, rollout_boxes.c.principal == boxes.c.principal)
            .where(
                rollout_boxes.c.rollout == rollout,
                rollout_boxes.c.published_generation < rollout_boxes.c.generation,
                boxes.c.status == "active",
                boxes.c.want.is_not(None),
            )
            .order_by(rollout_boxes.c.place)
            .limit(limit)
        )
        found = self._connection.execute(query)
        return [Unpublished(box, generation, want) for box, generation, want in found]

    def mark_published(self, rollout: str, sent: Sequence[Unpublished]) -> None:
        statement = (
            update(rollout_boxes)
            .where(
                rollout_boxes.c.rollout == rollout, rollout_boxes.c.principal == bindparam("box")
            )
            .values(published_generation=bindparam("sent"))
        )
        values = [{"box": one.box, "sent": one.generation} for one in sent]
        if values:
            self._connection.execute(statement, values)


def parse_want(envelope: bytes | None) -> Want | None:
    """Our own document back; it was signed here, and the database is trusted."""
    if envelope is None:
        return None
    return Want.parse(unchecked_payload(envelope, MAX_BYTES[Channel.WANT], "want"))
