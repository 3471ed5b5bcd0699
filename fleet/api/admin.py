"""Handlers: tokens, the audit log, health."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy import Connection, text

from edge_runtime import __version__
from fleet.api.routes import Call, Model, Page, PageQuery, int_cursor
from fleet.registry import audit, tokens
from fleet.registry.audit import AuditEntry
from fleet.registry.tokens import Role, Token


class TokenBody(Model):
    """A token to make."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    role: Role
    lives_s: float | None = Field(None, gt=0, le=10 * 365 * 86_400)


class NewToken(Model):
    """The token, and its secret, which is shown this once."""

    token: Token
    secret: str


class AuditQuery(PageQuery):
    """Which entries."""

    object: str | None = Field(None, max_length=256, description="As in `box/<principal>`.")


class HealthAnswer(Model):
    """The control host answers and its database does."""

    status: Literal["ok"] = "ok"
    version: str


class WhoAmI(Model):
    """Whom a token stands for."""

    name: str
    role: str
    now_s: float = Field(description="The control host's time: that of a caller may be wrong.")


async def create_token(call: Call) -> NewToken:
    """Make a token."""
    body: TokenBody = call.body

    def work(connection: Connection) -> NewToken:
        token, secret = tokens.create(
            connection, body.name, body.role, now_s=call.now_s, lives_s=body.lives_s
        )
        audit.note(
            connection, call.actor, "token.create", f"token/{token.id}",
            now_s=call.now_s, detail={"name": body.name, "role": body.role.value},
        )  # fmt: skip
        return NewToken(token=token, secret=secret)

    return await call.services.database.write(work)


async def list_tokens(call: Call) -> Page[Token]:
    """All tokens, also those that hold no more."""
    return Page[Token](items=await call.services.database.read(tokens.listed), next=None)


async def revoke_token(call: Call) -> Token:
    """End a token now."""

    def work(connection: Connection) -> Token:
        token = tokens.revoke(connection, call.path["id"], now_s=call.now_s)
        audit.note(connection, call.actor, "token.revoke", f"token/{token.id}", now_s=call.now_s)
        return token

    return await call.services.database.write(work)


async def list_audit(call: Call) -> Page[AuditEntry]:
    """Who changed what, the newest first."""
    query: AuditQuery = call.query
    before = int_cursor(query.after)
    found = await call.services.database.read(
        lambda c: audit.entries(c, before=before, thing=query.object, limit=query.limit)
    )
    more = str(found[-1].id) if len(found) == query.limit else None
    return Page[AuditEntry](items=found, next=more)


async def get_health(call: Call) -> HealthAnswer:
    """Answers when the database can be read."""
    await call.services.database.read(lambda c: c.execute(text("SELECT 1")).scalar_one())
    return HealthAnswer(version=__version__)


async def who_am_i(call: Call) -> WhoAmI:
    """The caller's name and role, and the time."""
    return WhoAmI(name=call.actor.name, role=call.actor.role, now_s=call.now_s)
