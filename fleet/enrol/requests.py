"""Requests to be let in, as they lie in the database until somebody decided."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, func, insert, select, update

from edge_runtime.agent.protocol import EnrolRequest
from edge_runtime.errors import UsageError
from fleet.db.tables import enrolments
from fleet.enrol.claims import Claim
from fleet.enrol.secrets import sha256_of

State = Literal["pending", "granted", "refused"]


class Enrolment(BaseModel):
    """A request to be let in, and what became of it."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    claim: str
    principal: str
    key_id: str
    state: State
    reason: str
    request: str
    created_s: float
    decided_s: float | None
    decided_by: str | None

    def asked(self) -> EnrolRequest:
        """What the box sent; the claim's secret is blotted out."""
        return EnrolRequest.model_validate_json(self.request)


def add(
    connection: Connection,
    request: EnrolRequest,
    claim: Claim,
    *,
    principal: str,
    key_id: str,
    ticket: str,
    now_s: float,
) -> Enrolment:
    """Store a request, undecided."""
    row: dict[str, Any] = {
        "id": secrets.token_hex(8),
        "claim": claim.id,
        "principal": principal,
        "key_id": key_id,
        "state": "pending",
        "reason": "",
        "request": request.model_copy(update={"claim": "x" * 16}).payload().decode(),
        "created_s": now_s,
        "decided_s": None,
        "decided_by": None,
    }
    connection.execute(insert(enrolments).values(ticket_sha256=sha256_of(ticket), **row))
    return Enrolment.model_validate(row)


def of_claim(connection: Connection, claim: str, key_id: str) -> Enrolment | None:
    """The request that this key made with this claim."""
    query = select(enrolments).where(enrolments.c.claim == claim, enrolments.c.key_id == key_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else Enrolment.model_validate(row)


def of_ticket(connection: Connection, ticket: str) -> Enrolment | None:
    """The request that a ticket was given for."""
    query = select(enrolments).where(enrolments.c.ticket_sha256 == sha256_of(ticket))
    row = connection.execute(query).one_or_none()
    return None if row is None else Enrolment.model_validate(row)


def get(connection: Connection, enrolment_id: str) -> Enrolment:
    """Raises `UsageError` when there is none."""
    query = select(enrolments).where(enrolments.c.id == enrolment_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise UsageError(f"there is no request {enrolment_id!r}", code="not_found", status=404)
    return Enrolment.model_validate(row)


def decided(
    connection: Connection,
    enrolment: Enrolment,
    state: State,
    reason: str,
    by: str,
    *,
    now_s: float,
) -> Enrolment:
    """Store what was decided. Raises `UsageError` when somebody else was faster."""
    query = (
        update(enrolments)
        .where(enrolments.c.id == enrolment.id, enrolments.c.state == "pending")
        .values(state=state, reason=reason, decided_s=now_s, decided_by=by)
        .returning(*enrolments.c)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise UsageError("this request was decided already", code="decided", status=409)
    return Enrolment.model_validate(row)


def listed(
    connection: Connection,
    *,
    state: State | None = None,
    after: float | None = None,
    limit: int = 100,
) -> list[Enrolment]:
    """The newest first; `after` is the `created_s` to go on from."""
    query = select(enrolments).order_by(enrolments.c.created_s.desc(), enrolments.c.id)
    if state is not None:
        query = query.where(enrolments.c.state == state)
    if after is not None:
        query = query.where(enrolments.c.created_s < after)
    return [Enrolment.model_validate(row) for row in connection.execute(query.limit(limit))]


def pending(connection: Connection) -> int:
    """How many wait for a decision."""
    query = select(func.count()).select_from(enrolments).where(enrolments.c.state == "pending")
    return int(connection.execute(query).scalar_one())
