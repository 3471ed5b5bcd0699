"""Credentials of boxes: which keys count, and what the broker is told.

Rules
- A box has one `active` credential and, after a rotation, a `next` one until that was used. Both
  keys may sign; retired and revoked ones never.
- The broker holds one password a user name: the newest one. So with passwords a rotation ends
  the old password at once, and a lost reply costs the box one more request, not its access.
- A key belongs to one box, for ever.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from edge_runtime.bundle.envelope import key_id, public_pem, read_public_key
from edge_runtime.errors import UsageError
from fleet.db.tables import boxes, credentials


class Credential(BaseModel):
    """A credential, as operators see it."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    principal: str
    key_id: str
    state: str
    serial: str | None
    issued_s: float
    expires_s: float | None
    ended_s: float | None


@dataclass(frozen=True)
class NewCredential:
    """What is issued to a key: a password's hash or a certificate."""

    key: Ed25519PublicKey
    password_hash: str | None = None
    certificate_pem: str | None = None
    serial: str | None = None
    expires_s: float | None = None


def issue(
    connection: Connection, principal: str, new: NewCredential, *, state: str, now_s: float
) -> None:
    """Store a credential that becomes `active` or `next`; one in that state before ends.

    Raises `UsageError` for a key that belongs to a box already.
    """
    _end(connection, principal, (state,), "retired", now_s)
    try:
        connection.execute(
            insert(credentials).values(
                id=secrets.token_hex(8),
                principal=principal,
                key_id=key_id(new.key),
                public_key_pem=public_pem(new.key).decode(),
                state=state,
                password_hash=new.password_hash,
                certificate_pem=new.certificate_pem,
                serial=new.serial,
                issued_s=now_s,
                expires_s=new.expires_s,
            )
        )
    except IntegrityError as error:
        raise UsageError(
            "this key belongs to a box already; make a new one", code="key_used", status=409
        ) from error


def keys_of(
    connection: Connection, principal: str, states: tuple[str, ...] = ("active", "next")
) -> dict[str, Ed25519PublicKey]:
    """The keys that may sign for an active box, by id."""
    query = (
        select(credentials.c.key_id, credentials.c.public_key_pem)
        .join(boxes, boxes.c.principal == credentials.c.principal)
        .where(
            credentials.c.principal == principal,
            credentials.c.state.in_(states),
            boxes.c.status == "active",
        )
    )
    return {
        row.key_id: read_public_key(row.public_key_pem.encode(), name=principal)
        for row in connection.execute(query)
    }


def find(connection: Connection, principal: str, key: Ed25519PublicKey) -> NewCredential | None:
    """What was issued to this key of this box and still holds."""
    query = select(credentials).where(
        credentials.c.principal == principal,
        credentials.c.key_id == key_id(key),
        credentials.c.state.in_(("active", "next")),
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return NewCredential(key, row.password_hash, row.certificate_pem, row.serial, row.expires_s)


def promote(connection: Connection, principal: str, *, now_s: float) -> bool:
    """The `next` credential was used: it is the active one now. False when there was none."""
    waiting = select(credentials.c.id).where(
        credentials.c.principal == principal, credentials.c.state == "next"
    )
    found = connection.execute(waiting).scalar_one_or_none()
    if found is None:
        return False
    _end(connection, principal, ("active",), "retired", now_s)
    connection.execute(update(credentials).where(credentials.c.id == found).values(state="active"))
    return True


def end_all(connection: Connection, principal: str, *, now_s: float) -> None:
    """Every credential of the box is worth nothing from now on."""
    _end(connection, principal, ("active", "next"), "revoked", now_s)


def passwords(connection: Connection) -> Mapping[str, str]:
    """What the broker has to know: the newest password of every active box."""
    query = (
        select(credentials.c.principal, credentials.c.state, credentials.c.password_hash)
        .join(boxes, boxes.c.principal == credentials.c.principal)
        .where(
            boxes.c.status == "active",
            credentials.c.state.in_(("active", "next")),
            credentials.c.password_hash.is_not(None),
        )
        .order_by(credentials.c.state)  # `active` before `next`, which replaces it
    )
    return {row.principal: row.password_hash for row in connection.execute(query)}


def ended_serials(connection: Connection, *, now_s: float) -> list[str]:
    """Serial numbers of certificates that were ended before their time."""
    query = select(credentials.c.serial).where(
        credentials.c.serial.is_not(None),
        credentials.c.state.in_(("revoked", "retired")),
        credentials.c.expires_s > now_s,
    )
    return [serial for serial in connection.execute(query).scalars() if serial is not None]


def listed(connection: Connection, principal: str) -> list[Credential]:
    """All credentials a box ever had, the newest first."""
    query = select(credentials).where(credentials.c.principal == principal)
    rows = connection.execute(query.order_by(credentials.c.issued_s.desc(), credentials.c.id))
    return [Credential.model_validate(row) for row in rows]


def _end(
    connection: Connection, principal: str, states: tuple[str, ...], into: str, now_s: float
) -> None:
    connection.execute(
        update(credentials)
        .where(credentials.c.principal == principal, credentials.c.state.in_(states))
        .values(state=into, ended_s=now_s)
    )
