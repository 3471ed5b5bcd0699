"""Bearer tokens of people and programs, and what each role may do.

Rules
- Only the sha256 of a token is stored; the token itself is shown once. It has 256 random bits,
  so a plain hash is enough: there is nothing to guess.
- A token that expired or was revoked is as good as none.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from typing import Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from edge_runtime.errors import UsageError
from fleet.db.tables import tokens

PREFIX: Final = "eft_"
_TOUCH_S: Final = 60.0
"""How exact `used_s` is: a busy token is not written on every request."""


class Role(enum.StrEnum):
    """Who somebody is to the control host."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    PUBLISHER = "publisher"
    ADMIN = "admin"


class Permission(enum.StrEnum):
    """What a route needs."""

    READ = "read"
    OPERATE = "operate"  # boxes, groups, claims, rollouts, alerts
    PUBLISH = "publish"  # bundles, settings, daemon releases
    ADMIN = "admin"  # tokens and the audit log


MAY: Final[dict[Role, frozenset[Permission]]] = {
    Role.VIEWER: frozenset({Permission.READ}),
    Role.OPERATOR: frozenset({Permission.READ, Permission.OPERATE}),
    Role.PUBLISHER: frozenset({Permission.READ, Permission.PUBLISH}),
    Role.ADMIN: frozenset(Permission),
}


class Token(BaseModel):
    """A token without its secret."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    name: str
    role: Role
    created_s: float
    expires_s: float | None
    revoked_s: float | None
    used_s: float | None


def create(
    connection: Connection, name: str, role: Role, *, now_s: float, lives_s: float | None
) -> tuple[Token, str]:
    """A new token and its secret, which is not stored. Raises `UsageError` for a taken name."""
    secret = PREFIX + secrets.token_urlsafe(32)
    row = {
        "id": secrets.token_hex(8),
        "name": name,
        "role": role.value,
        "created_s": now_s,
        "expires_s": None if lives_s is None else now_s + lives_s,
        "revoked_s": None,
        "used_s": None,
    }
    try:
        connection.execute(insert(tokens).values(secret_sha256=_digest(secret), **row))
    except IntegrityError as error:
        raise UsageError(
            f"there is a token {name!r} already; revoke it under its id and choose another name",
            param="name",
            code="taken",
            status=409,
        ) from error
    return Token.model_validate(row), secret


def find(connection: Connection, secret: str, *, now_s: float) -> Token | None:
    """The token that holds now, or None."""
    if not secret.startswith(PREFIX) or len(secret) > 128:
        return None
    query = select(tokens).where(
        tokens.c.secret_sha256 == _digest(secret),
        tokens.c.revoked_s.is_(None),
        or_(tokens.c.expires_s.is_(None), tokens.c.expires_s > now_s),
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Token.model_validate(row)


def touch(connection: Connection, token: Token, *, now_s: float) -> None:
    """Remember that it was used; call it when `wants_touch`."""
    connection.execute(update(tokens).where(tokens.c.id == token.id).values(used_s=now_s))


def wants_touch(token: Token, *, now_s: float) -> bool:
    """True when the stored time of use is too old."""
    return token.used_s is None or now_s - token.used_s > _TOUCH_S


def listed(connection: Connection) -> list[Token]:
    """All tokens, also those that hold no more, by name."""
    rows = connection.execute(select(tokens).order_by(tokens.c.name))
    return [Token.model_validate(row) for row in rows]


def revoke(connection: Connection, token_id: str, *, now_s: float) -> Token:
    """End a token now. Raises `UsageError` when there is none."""
    query = (
        update(tokens).where(tokens.c.id == token_id).values(revoked_s=now_s).returning(*tokens.c)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise UsageError(f"there is no token {token_id!r}", code="not_found", status=404)
    return Token.model_validate(row)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
