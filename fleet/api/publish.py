"""Handlers: publishing by route. What comes is signed elsewhere; here it is checked and shown.

Files first, then the signed metadata that names them. Both are audited, refusals too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from edge_runtime.errors import EdgeError
from fleet.api.errors import told
from fleet.api.routes import Call, Model
from fleet.publish.accept import Accepted, accept
from fleet.publish.keys import KeyRing
from fleet.registry.audit import note

_MAX_REASON = 300
_MAX_LISTED = 20


class BlobKept(Model):
    """The file is here, whole and durable."""

    digest: str
    new_bytes: int = Field(description="0 where it was here already.")


class RolePublished(Model):
    """The newest metadata of a role is here."""

    role: str
    version: int
    targets: list[str] = Field(description="What is new; empty where all of it was here already.")
    live: bool = Field(description="Boxes can see it; else the control host lacks an online key.")


async def put_blob(call: Call) -> BlobKept:
    """Take one file, named by its sha256; the body is its bytes, as long as `content-length`."""
    digest = call.path["digest"]
    try:
        new_bytes = await call.services.uploads.take(digest, call.length, call.stream)
    except EdgeError as error:
        await _refused(call, f"blob/{digest}", error)
        raise
    if new_bytes:
        await _note(call, "publish.blob", f"blob/{digest}", {"bytes": new_bytes})
    return BlobKept(digest=digest, new_bytes=new_bytes)


async def publish_role(call: Call) -> RolePublished:
    """Take the signed metadata of a delegated role, and sign snapshot and timestamp over it."""
    role = call.path["role"]

    def work() -> Accepted:
        ring = KeyRing.load(call.services.settings.publish.keys)
        now = datetime.fromtimestamp(call.now_s, UTC)
        return accept(call.services.uploads.repository, role, call.raw_body, ring, now)

    try:
        done = await asyncio.to_thread(work)
    except EdgeError as error:
        await _refused(call, f"role/{role}", error)
        raise
    listed = list(done.targets)
    if listed:
        shown = {"version": done.version, "targets": listed[:_MAX_LISTED], "count": len(listed)}
        await _note(call, "publish.role", f"role/{role}", shown)
    return RolePublished(role=role, version=done.version, targets=listed, live=done.live)


async def _refused(call: Call, thing: str, error: EdgeError) -> None:
    _, code, _ = told(error)
    reason = str(error)[:_MAX_REASON]
    await _note(call, "publish.refused", thing, {"code": code, "reason": reason})


async def _note(call: Call, action: str, thing: str, detail: Mapping[str, Any]) -> None:
    await call.services.database.write(
        lambda c: note(c, call.actor, action, thing, now_s=call.now_s, detail=detail)
    )
