"""What boxes say of themselves, kept in order although messages may not arrive so.

Rules
- A report of the same boot counts only with a higher number; one of another boot only from a
  connection that is not older. Whatever is older changes nothing but the time of last contact.
- A Will of an older connection than the last one heard of is ignored: it tells of an end that a
  new beginning has overtaken.
- A box that reports a higher generation than was ever made for it has seen a database that we
  have lost (a restore): the counter goes on above it, or the box would never listen again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, case, delete, insert, select, update

from edge_runtime.agent.protocol import Have, ItemReport, Link
from fleet.db.tables import box_items, boxes


@dataclass(frozen=True, slots=True)
class Position:
    """Where the reports of a box stand."""

    boot: str
    seq: int
    connection: int


def is_newer(have: Have, last: Position) -> bool:
    """Whether a report says more than what is known. Pure."""
    if have.boot == last.boot:
        return have.seq > last.seq
    return have.connection >= last.connection


def is_current(link: Link, last: Position) -> bool:
    """Whether a birth or a Will is about the newest connection heard of. Pure."""
    return link.connection >= last.connection


def listened_to(connection: Connection, principal: str) -> Position | None:
    """Where the reports of an active box stand; None for a box that is not listened to."""
    query = select(boxes.c.boot, boxes.c.have_seq, boxes.c.link_number).where(
        boxes.c.principal == principal, boxes.c.status == "active"
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Position(row.boot, row.have_seq, row.link_number)


def contact(connection: Connection, principal: str, *, now_s: float) -> None:
    """Something was heard of it."""
    _update(connection, principal, last_contact_s=now_s)


def apply_have(connection: Connection, principal: str, have: Have, *, now_s: float) -> bool:
    """Take a report in; False when it was an old one. The box must be one that is listened to."""
    last = listened_to(connection, principal)
    if last is None or not is_newer(have, last):
        contact(connection, principal, now_s=now_s)
        return False
    counter = boxes.c.generation
    _update(
        connection,
        principal,
        have=have.model_dump_json(exclude_none=True, by_alias=True),
        boot=have.boot,
        have_seq=have.seq,
        link_number=max(have.connection, last.connection),
        online=True,
        own_labels=dict(have.labels),
        seen_generation=have.generation,
        generation=case((counter < have.generation, have.generation), else_=counter),
        clock_offset_s=round(now_s) - have.clock_s,
        last_contact_s=now_s,
    )
    _put_items(connection, principal, have, now_s)
    return True


def apply_link(connection: Connection, principal: str, link: Link, *, now_s: float) -> bool:
    """Take a birth or a Will in; False when a newer connection has overtaken it."""
    last = listened_to(connection, principal)
    if last is None or not is_current(link, last):
        return False
    values: dict[str, Any] = {"online": link.up, "link_number": link.connection}
    if link.up:  # a Will is the broker's word, not the box's
        values["last_contact_s"] = now_s
    _update(connection, principal, **values)
    return True


def _put_items(connection: Connection, principal: str, have: Have, now_s: float) -> None:
    query = select(box_items).where(box_items.c.principal == principal)
    before = {(row.kind, row.name): row for row in connection.execute(query)}
    rows = [
        _item_row(principal, item, before.get((item.kind.value, item.name)), now_s)
        for item in {(item.kind, item.name): item for item in have.items}.values()
    ]
    connection.execute(delete(box_items).where(box_items.c.principal == principal))
    if rows:
        connection.execute(insert(box_items), rows)


def _item_row(
    principal: str, item: ItemReport, before: Row[Any] | None, now_s: float
) -> dict[str, Any]:
    same = before is not None and (before.state, before.generation) == (
        item.state.value,
        item.generation,
    )
    return {
        "principal": principal,
        "kind": item.kind.value,
        "name": item.name,
        "generation": item.generation,
        "rollout": item.rollout,
        "state": item.state.value,
        "active": item.active,
        "version": item.version,
        "failure_kind": item.failure.kind.value if item.failure is not None else None,
        "failure_code": item.failure.code.value if item.failure is not None else None,
        "since_s": before.since_s if same and before is not None else now_s,
    }


def _update(connection: Connection, principal: str, **values: Any) -> None:
    connection.execute(update(boxes).where(boxes.c.principal == principal).values(**values))
