"""The box's own page: `/`, its two assets, and `GET /v1/box`, the data it shows."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from aiohttp import web

from edge_runtime import __version__
from edge_runtime.core import ModelInfo
from edge_runtime.ledger.money import NANO
from edge_runtime.router.trust import Known
from edge_runtime.router.watch.contract import WatchEvent
from edge_runtime.server.context import RequestContext, Services, context_of, services_of
from edge_runtime.server.recent import REFUSED, Seen, listed, summary
from edge_runtime.server.replies import json_reply

PAGE_ROUTES: Final = frozenset({"/", "/page.css", "/page.js"})
"""The same for everybody: they hold no data."""
ASKING: Final = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/classify"}
)
_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def get_page(request: web.Request) -> web.StreamResponse:
    """The page or one of its assets. They come with the package: nothing is built or fetched."""
    name = request.path.lstrip("/") or "index.html"
    data = (resources.files("edge_runtime.server") / "page" / name).read_bytes()
    return web.Response(body=data, content_type=_TYPES[name], charset="utf-8", headers=_HEADERS)


async def get_box(request: web.Request) -> web.StreamResponse:
    """Models, certificates, and the traffic of the last minutes; with keys, the caller's own."""
    services, context = services_of(request), context_of(request)
    now_s = services.clock()
    seen = services.recent.of(context.tenant or None)
    router = services.router
    watch = router.watch
    return json_reply(
        {
            "version": __version__,
            "uptime_s": round(now_s - services.started_s, 1),
            "ready": services.host.ready,
            "not_ready_reason": services.host.not_ready_reason,
            "currency": router.till.currency,
            "traffic": summary(seen, now_s),
            "since_start": dict(services.recent.total) if not context.tenant else None,
            "models": [_model(services, info) for info in services.host.models()],
            "endpoints": [
                {"name": name, "policy": str(one.policy), "models": list(one.models)}
                for name, one in router.directory.endpoints.items()
            ],
            "frontiers": list(router.frontiers.names()) if router.frontiers else [],
            "certificate_problems": list(router.book.problems),
            "events": [] if watch is None else [_event(one) for one in watch.events()[-10:]],
            "recent": listed(seen, now_s),
        }
    )


def _model(services: Services, info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "version": info.version,
        "kind": str(info.kind),
        "variant": info.variant,
        "context_tokens": info.context_tokens,
        "model_digest": info.model_digest,
        "certificates": [
            _certificate(services, known)
            for known in services.router.book.all()
            if known.certificate.model_digest == info.model_digest
        ],
    }


def _event(event: WatchEvent) -> dict[str, object]:
    return {
        "at_us": event.at_us,
        "kind": str(event.kind),
        "subject": event.subject,
        "detail": event.detail,
    }


def _certificate(services: Services, known: Known) -> dict[str, Any]:
    one, watch = known.certificate, services.router.watch
    return {
        "digest": known.digest,
        "task": one.task,
        "score": one.score.name,
        "alpha": one.alpha,
        "delta": one.delta,
        "threshold": one.threshold,
        "coverage": one.coverage,
        "n": one.n,
        "k": one.k,
        "reference": one.reference,
        "traffic": one.traffic,
        "issued": one.issued,
        "expires": one.expires,
        "suspended": None if watch is None else watch.suspended(known.digest),
    }


def seen_of(context: RequestContext, now_s: float) -> list[Seen]:
    """What the page is told of a request that ended: one a question, none for other routes."""
    if context.route not in ASKING:
        return []
    seconds = now_s - context.arrival_s
    return [
        Seen(
            at_s=now_s,
            route=context.route,
            model=told.bill.payer.endpoint or (context.info.name if context.info else ""),
            tenant=context.tenant,
            tier=told.tier or REFUSED,
            reason=told.reason,
            answered_by=told.answered_by,
            seconds=seconds,
            cost=told.bill.cost_nano / NANO,
            saved=told.bill.saved_nano / NANO,
            joules=told.bill.energy_uj / 1e6,
            degraded=told.degraded,
        )
        for told in context.told
    ]
