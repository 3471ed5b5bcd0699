"""POST /v1/tasks/{id}/outcome and /v1/cache/purge: what callers say of their tasks and answers."""

from __future__ import annotations

import asyncio

from aiohttp import web
from pydantic import Field

from edge_runtime.errors import UsageError
from edge_runtime.ledger.rows import Outcome
from edge_runtime.router.router import DEFAULT_TENANT
from edge_runtime.server.body import Body, read_body
from edge_runtime.server.context import context_of, services_of
from edge_runtime.server.guards import check_request_id
from edge_runtime.server.replies import json_reply


class OutcomeBody(Body):
    """Whether the task is resolved, and who or what says so."""

    resolved: bool
    source: str = Field("caller", min_length=1, max_length=64)


class PurgeBody(Body):
    """What to drop; entries must match everything given."""

    key: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    tag: str | None = Field(None, min_length=1, max_length=64)
    model: str | None = Field(None, min_length=1, max_length=256)
    tenant: str | None = Field(None, min_length=1, max_length=64)


async def task_outcome(request: web.Request) -> web.StreamResponse:
    """Say what became of a task; the last word counts."""
    services, context = services_of(request), context_of(request)
    task_id = check_request_id(request.match_info["id"])
    body = await read_body(request, OutcomeBody)
    till = services.router.till
    if till.ledger is None:
        raise UsageError("this box keeps no ledger: set ledger.enabled", code="not_configured")
    outcome = Outcome(
        at_us=till.now_us(),
        task_id=task_id,
        resolved=body.resolved,
        tenant=context.tenant or DEFAULT_TENANT,
        source=body.source,
    )
    # told only once it is on the disk: an outcome is what savings are divided by
    await asyncio.wrap_future(till.ledger.outcome(outcome))
    said = "resolved" if body.resolved else "unresolved"
    services.router.metrics.count("edge_task_outcomes_total", said)
    return json_reply({"task_id": task_id, "resolved": body.resolved, "source": body.source})


async def purge_cache(request: web.Request) -> web.StreamResponse:
    """Drop kept answers of the caller's tenant, by key, tag or model; all of them by none."""
    services, context = services_of(request), context_of(request)
    body = await read_body(request, PurgeBody)
    router = services.router
    if router.exact is None and router.semantic is None:
        raise UsageError(
            "this box keeps no answers: set cache.exact.enabled", code="not_configured"
        )
    tenant = _tenant(context.tenant, body.tenant, services.settings.server.admin_tenants)
    digest = None if body.model is None else services.find(body.model).model_digest
    gone = 0
    if router.exact is not None:
        exact, key = router.exact, None if body.key is None else bytes.fromhex(body.key)
        gone += await asyncio.to_thread(
            lambda: exact.purge(key=key, tag=body.tag, tenant=tenant, model_digest=digest)
        )
    if router.semantic is not None and body.key is None:
        gone += await router.semantic.purge(tag=body.tag, tenant=tenant, model_digest=digest)
    return json_reply({"purged": gone})


def _tenant(asking: str, wanted: str | None, admins: list[str]) -> str | None:
    """Whose answers go; None for everybody's. Raises `UsageError` (403)."""
    is_admin = not asking or asking in admins
    if wanted is None:
        return asking or None
    if wanted == "*":
        if is_admin:
            return None
    elif is_admin or wanted == asking:
        return wanted
    raise UsageError(
        "only an admin may purge another tenant's answers; see server.admin_tenants",
        param="tenant",
        code="forbidden_tenant",
        status=403,
    )
