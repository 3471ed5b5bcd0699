"""GET /v1/watch and POST /v1/watch/clear: what drift, audits, slices and trials look like."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web
from pydantic import Field

from edge_runtime.errors import UsageError
from edge_runtime.router.watch.contract import WatchLike
from edge_runtime.server.body import Body, read_body
from edge_runtime.server.context import context_of, services_of
from edge_runtime.server.replies import json_reply

OPERATOR = "operator"  # who cleared an alarm on a box without API keys


class ClearBody(Body):
    """Which certificate's alarm to take back."""

    certificate: str = Field(pattern=r"^[0-9a-f]{64}$")


async def get_watch(request: web.Request) -> web.StreamResponse:
    """Alarms that stand, slices, trials and the last events of the watch."""
    watch, _ = _watch_of(request)
    return json_reply(
        {
            "alarms": [asdict(one) for one in watch.alarms()],
            "slices": [asdict(one) for one in watch.slices()],
            "trials": [asdict(one) for one in watch.trials()],
            "events": [asdict(one) for one in watch.events()],
        }
    )


async def clear_alarm(request: web.Request) -> web.StreamResponse:
    """Take a drift alarm back: the certificate counts again and its watch starts anew."""
    watch, by = _watch_of(request)
    body = await read_body(request, ClearBody)
    return json_reply({"cleared": watch.clear(body.certificate, by)})


def _watch_of(request: web.Request) -> tuple[WatchLike, str]:
    """The watch and who asks. Slices name tenants, so only an admin may look."""
    services, tenant = services_of(request), context_of(request).tenant
    if tenant and tenant not in services.settings.server.admin_tenants:
        raise UsageError(
            "only an admin may see or clear what is watched; see server.admin_tenants",
            code="forbidden_tenant",
            status=403,
        )
    watch = services.router.watch
    if watch is None:
        raise UsageError(
            "nothing is watched: set certificates.directory and a frontier", code="not_configured"
        )
    return watch, tenant or OPERATOR
