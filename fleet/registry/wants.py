"""Generations: stored before they are published, counted once for all rollouts of a box."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import Connection, insert, select, update

from fleet.db.tables import boxes
from fleet.db.tables_wants import generations
from fleet.registry.boxes import unknown


def next_want(
    connection: Connection,
    principal: str,
    make: Callable[[int], bytes],
    *,
    rollout: str | None,
    now_s: float,
) -> tuple[int, bytes]:
    """The box's next generation and the signed document that `make` makes for it, both stored.

    Publish it after the transaction was committed. Raises `UsageError` when there is no such
    active box.
    """
    counted = (
        update(boxes)
        .where(boxes.c.principal == principal, boxes.c.status == "active")
        .values(generation=boxes.c.generation + 1)
        .returning(boxes.c.generation)
    )
    generation = connection.execute(counted).scalar_one_or_none()
    if generation is None:
        raise unknown(principal)
    want = make(generation)
    connection.execute(update(boxes).where(boxes.c.principal == principal).values(want=want))
    connection.execute(
        insert(generations).values(
            principal=principal, generation=generation, rollout=rollout, want=want, created_s=now_s
        )
    )
    return generation, want


def newest_want(connection: Connection, principal: str) -> bytes | None:
    """The document a box should have, or None when nothing was ever wanted of it."""
    query = select(boxes.c.want).where(boxes.c.principal == principal)
    return connection.execute(query).scalar_one_or_none()


def unseen_wants(connection: Connection, *, limit: int = 500) -> Iterator[tuple[str, bytes]]:
    """Documents that active boxes have not said they stored: publish them again.

    Retained messages can be lost with their broker, so this is what brings them back.
    """
    query = (
        select(boxes.c.principal, boxes.c.want)
        .where(
            boxes.c.status == "active",
            boxes.c.want.is_not(None),
            boxes.c.seen_generation < boxes.c.generation,
        )
        .order_by(boxes.c.principal)
    )
    after = ""
    while True:
        rows = connection.execute(query.where(boxes.c.principal > after).limit(limit)).all()
        yield from ((row.principal, row.want) for row in rows)
        if len(rows) < limit:
            return
        after = rows[-1].principal
