"""Boxes: who they are, what operators call them, what they last said.

A box enters by enrolment only (`fleet.enrol`). A revoked box stays, with its history; its
credentials are worth nothing and what it still says is not listened to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Row, func, insert, select, update

from edge_runtime.agent.protocol import Have, Health, shard_of, split_principal
from edge_runtime.bundle.manifest import Name
from edge_runtime.errors import UsageError
from fleet.db.tables import box_items, boxes
from fleet.registry.facts import Known, Limits, health_of

Status = Literal["active", "revoked"]
LabelValue = Annotated[str, Field(max_length=96, pattern=r"^[\x20-\x7e]*$")]
Labels = Annotated[dict[Name, LabelValue], Field(max_length=32)]
_CHUNK = 500


class BoxItem(BaseModel):
    """One wanted or active thing of a box; `since_s` is when the state was first heard of."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    kind: str
    name: str
    generation: int
    rollout: str | None
    state: str
    active: str | None
    version: str | None
    failure_kind: str | None
    failure_code: str | None
    since_s: float


class Box(BaseModel):
    """A box in a list."""

    model_config = ConfigDict(frozen=True)

    principal: str
    tenant: str
    name: str
    shard: int
    status: Status
    health: Health
    labels: dict[str, str]
    created_s: float
    last_contact_s: float | None
    generation: int = Field(description="The newest that was made for it; 0: none yet.")
    seen_generation: int = Field(description="The newest that it said it has stored.")
    items: list[BoxItem] = []


class BoxPage(Box):
    """A box with everything it reported."""

    own_labels: dict[str, str]
    clock_offset_s: int | None = Field(
        description="How far its clock is behind ours, in seconds; None: never heard."
    )
    reported: Have | None


def add(connection: Connection, principal: str, labels: Mapping[str, str], *, now_s: float) -> None:
    """A new box, active. Raises `UsageError` when there is one of that name."""
    tenant, name = split_principal(principal)
    if exists(connection, principal):
        raise UsageError(f"there is a box {principal} already", code="taken", status=409)
    connection.execute(
        insert(boxes).values(
            principal=principal,
            tenant=tenant,
            name=name,
            shard=shard_of(principal),
            status="active",
            created_s=now_s,
            labels=dict(labels),
            own_labels={},
        )
    )


def exists(connection: Connection, principal: str) -> bool:
    """True for any box that was ever let in and not deleted."""
    query = select(boxes.c.principal).where(boxes.c.principal == principal)
    return connection.execute(query).first() is not None


def get(connection: Connection, principal: str, *, now_s: float, limits: Limits) -> BoxPage:
    """One box. Raises `UsageError` when there is none."""
    row = connection.execute(select(boxes).where(boxes.c.principal == principal)).one_or_none()
    if row is None:
        raise unknown(principal)
    found = select(box_items).where(box_items.c.principal == principal)
    ordered = found.order_by(box_items.c.kind, box_items.c.name)
    return BoxPage(
        **_summary(row, now_s, limits),
        items=[BoxItem.model_validate(item) for item in connection.execute(ordered)],
        own_labels=row.own_labels,
        clock_offset_s=row.clock_offset_s,
        reported=_have(row),
    )


def scan(
    connection: Connection,
    *,
    now_s: float,
    limits: Limits,
    after: str = "",
    tenant: str | None = None,
    status: Status | None = "active",
) -> Iterator[tuple[Box, Known]]:
    """Every box in the order of principals, from behind `after`; reads in chunks, without items.

    Parsing what boxes reported costs some 30 microseconds a box.
    """
    query = select(boxes).order_by(boxes.c.principal).limit(_CHUNK)
    if tenant is not None:
        query = query.where(boxes.c.tenant == tenant)
    if status is not None:
        query = query.where(boxes.c.status == status)
    while True:
        rows = connection.execute(query.where(boxes.c.principal > after)).all()
        for row in rows:
            box = Box(**_summary(row, now_s, limits))
            yield (
                box,
                Known(box.principal, box.tenant, box.name, box.labels, box.health, _have(row)),
            )
        if len(rows) < _CHUNK:
            return
        after = rows[-1].principal


def with_items(connection: Connection, page: list[Box]) -> list[Box]:
    """The same boxes, each with its items."""
    names = [box.principal for box in page]
    query = select(box_items).where(box_items.c.principal.in_(names))
    found: dict[str, list[BoxItem]] = {name: [] for name in names}
    for row in connection.execute(query.order_by(box_items.c.kind, box_items.c.name)):
        found[row.principal].append(BoxItem.model_validate(row))
    return [box.model_copy(update={"items": found[box.principal]}) for box in page]


def set_labels(connection: Connection, principal: str, labels: Mapping[str, str]) -> None:
    """Replace the operator's labels of a box. Raises `UsageError` when there is none."""
    _change(connection, principal, labels=dict(labels))


def set_status(connection: Connection, principal: str, status: Status) -> None:
    """Raises `UsageError` when there is no such box."""
    _change(connection, principal, status=status)


def count(connection: Connection, tenant: str | None = None) -> int:
    """How many boxes were let in, revoked ones included."""
    query = select(func.count()).select_from(boxes)
    if tenant is not None:
        query = query.where(boxes.c.tenant == tenant)
    return int(connection.execute(query).scalar_one())


def unknown(principal: str) -> UsageError:
    """The error for a box that is not there."""
    return UsageError(f"there is no box {principal[:140]!r}", code="not_found", status=404)


def _change(connection: Connection, principal: str, **values: Any) -> None:
    query = update(boxes).where(boxes.c.principal == principal).values(**values)
    if connection.execute(query).rowcount != 1:
        raise unknown(principal)


def _summary(row: Row[Any], now_s: float, limits: Limits) -> dict[str, Any]:
    return {
        "principal": row.principal,
        "tenant": row.tenant,
        "name": row.name,
        "shard": row.shard,
        "status": row.status,
        "health": health_of(
            online=row.online, last_contact_s=row.last_contact_s, now_s=now_s, limits=limits
        ),
        "labels": {**row.own_labels, **row.labels},
        "created_s": row.created_s,
        "last_contact_s": row.last_contact_s,
        "generation": row.generation,
        "seen_generation": row.seen_generation,
    }


def _have(row: Row[Any]) -> Have | None:
    # It was checked when it came in; sizes are bounded, so parsing it again is cheap and typed.
    return None if row.have is None else Have.model_validate_json(row.have)
