"""Claims: one-time secrets that let one box ask to be let in.

Rules
- Only the sha256 of a claim is stored; the claim itself is shown once, to whoever made it.
- A claim belongs to the first key that uses it. The same key may ask again; no other can.
- The operator's words on it (tenant, name, labels) win over the box's.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, insert, select, update

from edge_runtime.agent.protocol import principal_of
from edge_runtime.errors import BundleError, UsageError
from fleet.db.tables import claims
from fleet.enrol.secrets import sha256_of

PREFIX: Final = "efc_"
MAX_LIVES_S: Final = 90 * 86_400.0


class Claim(BaseModel):
    """A claim without its secret. `approve`: the box is let in without asking anybody."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    tenant: str
    box: str | None
    labels: dict[str, str]
    approve: bool
    created_s: float
    expires_s: float
    created_by: str
    used_by_key: str | None
    used_s: float | None
    revoked_s: float | None


def create(
    connection: Connection,
    *,
    tenant: str,
    box: str | None,
    labels: Mapping[str, str],
    approve: bool,
    lives_s: float,
    by: str,
    now_s: float,
) -> tuple[Claim, str]:
    """A new claim and its secret. Raises `UsageError` for names that no box may have."""
    try:
        principal_of(tenant, box or "any")
    except BundleError as error:
        raise UsageError(str(error), param="tenant" if box is None else "box") from error
    if not 0 < lives_s <= MAX_LIVES_S:
        raise UsageError(f"a claim lives up to {MAX_LIVES_S:.0f} s", param="lives_s")
    secret = PREFIX + secrets.token_urlsafe(32)
    row: dict[str, Any] = {
        "id": secrets.token_hex(8),
        "tenant": tenant,
        "box": box,
        "labels": dict(labels),
        "approve": approve,
        "created_s": now_s,
        "expires_s": now_s + lives_s,
        "created_by": by,
        "used_by_key": None,
        "used_s": None,
        "revoked_s": None,
    }
    connection.execute(insert(claims).values(secret_sha256=sha256_of(secret), **row))
    return Claim.model_validate(row), secret


def use(connection: Connection, secret: str, key_id: str, *, now_s: float) -> Claim:
    """Take a claim for a key, in one statement, so that two boxes cannot both have it.

    The key that has it already gets it again, also later. Raises `UsageError`, status 403 for a
    claim that is unknown, revoked or expired, 409 for another key's.
    """
    mine = claims.c.secret_sha256 == sha256_of(secret)
    taken = (
        update(claims)
        .where(
            mine,
            claims.c.used_by_key.is_(None),
            claims.c.revoked_s.is_(None),
            claims.c.expires_s > now_s,
        )
        .values(used_by_key=key_id, used_s=now_s)
        .returning(*claims.c)
    )
    row = connection.execute(taken).one_or_none()
    if row is None:
        row = connection.execute(select(claims).where(mine)).one_or_none()
        if row is None or row.revoked_s is not None or row.used_by_key is None:
            raise UsageError(
                "this claim is unknown, expired or revoked; ask for a new one",
                param="claim",
                code="claim_refused",
                status=403,
            )
        if row.used_by_key != key_id:
            raise UsageError(
                "another box has used this claim; every box needs one of its own",
                param="claim",
                code="claim_used",
                status=409,
            )
    return Claim.model_validate(row)


def get(connection: Connection, claim_id: str) -> Claim:
    """Raises `UsageError` when there is none."""
    row = connection.execute(select(claims).where(claims.c.id == claim_id)).one_or_none()
    if row is None:
        raise UsageError(f"there is no claim {claim_id!r}", code="not_found", status=404)
    return Claim.model_validate(row)


def listed(connection: Connection, *, after: float | None = None, limit: int = 100) -> list[Claim]:
    """The newest first; `after` is the `created_s` to go on from."""
    query = select(claims).order_by(claims.c.created_s.desc(), claims.c.id).limit(limit)
    if after is not None:
        query = query.where(claims.c.created_s < after)
    return [Claim.model_validate(row) for row in connection.execute(query)]


def revoke(connection: Connection, claim_id: str, *, now_s: float) -> Claim:
    """End a claim. A box that was let in by it stays. Raises `UsageError` when there is none."""
    query = (
        update(claims).where(claims.c.id == claim_id).values(revoked_s=now_s).returning(*claims.c)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise UsageError(f"there is no claim {claim_id!r}", code="not_found", status=404)
    return Claim.model_validate(row)
