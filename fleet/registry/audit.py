"""Who changed what, when. Written in the transaction of the change itself, never updated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, insert, select

from fleet.db.tables import audit


@dataclass(frozen=True, slots=True)
class Actor:
    """On whose behalf something is done. `role` is a token's role, `box` or `system`."""

    name: str
    role: str
    request_id: str = ""


SYSTEM = Actor("edge-fleet", "system")


class AuditEntry(BaseModel):
    """One line of the audit log."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: int
    at_s: float
    actor: str
    role: str
    action: str
    object: str
    detail: dict[str, Any]
    request_id: str


def note(
    connection: Connection,
    actor: Actor,
    action: str,
    thing: str,
    *,
    now_s: float,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Record `action` (as in `claim.create`) on `thing`. Secrets never belong into `detail`."""
    connection.execute(
        insert(audit).values(
            at_s=now_s,
            actor=actor.name,
            role=actor.role,
            action=action,
            object=thing[:256],
            detail=dict(detail or {}),
            request_id=actor.request_id,
        )
    )


def entries(
    connection: Connection, *, before: int | None = None, thing: str | None = None, limit: int = 100
) -> list[AuditEntry]:
    """The newest entries first; `before` is the id to go on from, `thing` one object only."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    if thing is not None:
        query = query.where(audit.c.object == thing)
    return [AuditEntry.model_validate(row) for row in connection.execute(query)]
