"""The app: routes, and the middlewares every request passes through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web

from edge_runtime.config import Settings
from edge_runtime.core import ModelHost
from edge_runtime.errors import CapacityError, UsageError
from edge_runtime.metrics import Metrics
from edge_runtime.router.open import local_router
from edge_runtime.router.router import Router
from edge_runtime.server import guards
from edge_runtime.server.box import PAGE_ROUTES, get_box, get_page, seen_of
from edge_runtime.server.chat_route import chat_completions
from edge_runtime.server.classify import classify
from edge_runtime.server.completions import completions
from edge_runtime.server.context import (
    CURRENT,
    Current,
    RequestContext,
    Services,
    context_of,
    services_of,
    set_context,
)
from edge_runtime.server.embeddings import embeddings
from edge_runtime.server.replies import error_reply
from edge_runtime.server.status import get_health, get_metrics, get_model, list_models
from edge_runtime.server.tasks import purge_cache, task_outcome
from edge_runtime.server.tokens import detokenize, tokenize
from edge_runtime.server.watching import clear_alarm, get_watch

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log: Final = structlog.get_logger("edge_runtime.server")

OVERLOAD_RETRY_S = 1.0
UNKNOWN_ROUTE = "unknown"
OPEN = frozenset({"/health", *PAGE_ROUTES})
"""Routes without a key: they say nothing of anybody."""
PROBED = frozenset({"/health", "/metrics", "/v1/box", *PAGE_ROUTES})


def routes() -> list[web.RouteDef]:
    """Every route, in the order of the reference page."""
    return [
        web.post("/v1/chat/completions", chat_completions),
        web.post("/v1/completions", completions),
        web.post("/v1/embeddings", embeddings),
        web.post("/v1/classify", classify),
        web.get("/v1/models", list_models),
        web.get("/v1/models/{model}", get_model),
        web.post("/v1/tasks/{id}/outcome", task_outcome),
        web.post("/v1/cache/purge", purge_cache),
        web.get("/v1/watch", get_watch),
        web.post("/v1/watch/clear", clear_alarm),
        web.post("/tokenize", tokenize),
        web.post("/detokenize", detokenize),
        web.get("/health", get_health),
        web.get("/metrics", get_metrics),
        web.get("/v1/box", get_box),
        *(web.get(route, get_page) for route in sorted(PAGE_ROUTES)),
    ]


def create_app(
    host: ModelHost,
    settings: Settings,
    metrics: Metrics,
    clock: Callable[[], float] = time.monotonic,
    router: Router | None = None,
) -> web.Application:
    """The HTTP side of one `ModelHost`. `clock` must be the scheduler's; without a `router` every
    model answers for itself and no ledger is kept.

    Run it with `handler_cancellation=True` (as `serve` does): a request whose client went away
    is cancelled at once, and with it its sequences.
    """
    app = web.Application(
        middlewares=[identify, account, translate_errors, guard, bound_concurrency],
        client_max_size=settings.server.max_body_bytes,
    )
    app[CURRENT] = Current(
        Services(
            host=host,
            settings=settings,
            metrics=metrics,
            router=router or local_router(metrics),
            clock=clock,
            started_s=clock(),
        )
    )
    app.add_routes(routes())
    return app


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its identity, and the answer the headers that tell it."""
    resource = request.match_info.route.resource
    context = RequestContext(
        request_id=guards.request_id(request.headers),
        route=resource.canonical if resource is not None else UNKNOWN_ROUTE,
        arrival_s=services_of(request).clock(),
    )
    set_context(request, context)
    response = await handler(request)
    if not response.prepared:
        response.headers.update(context.answer_headers(answered=response.status < 400))
    return response


@web.middleware
async def account(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count, time and log the request, also one whose client went away.

    What that takes comes after the answer: the server sends it before the loop comes round.
    """
    services, context = services_of(request), context_of(request)
    status = "499"  # what remains when the client leaves before the answer is complete
    try:
        response = await handler(request)
        status = str(response.status)
    except (asyncio.CancelledError, ConnectionResetError):
        services.metrics.count("edge_http_disconnects_total", context.route)
        raise
    finally:
        now_s = services.clock()
        asyncio.get_running_loop().call_soon(_book, request, services, context, status, now_s)
    return response


def _book(
    request: web.Request, services: Services, context: RequestContext, status: str, now_s: float
) -> None:
    seconds = now_s - context.arrival_s
    for seen in seen_of(context, now_s):
        services.recent.note(seen)
    model = context.info.name if context.info is not None else ""
    services.metrics.count("edge_http_requests_total", context.route, status, model)
    services.metrics.observe("edge_http_request_seconds", context.route, value=seconds)
    # probes come every few seconds and say nothing new
    write = log.debug if context.route in PROBED else log.info
    write(
        "request",
        action="request_ended",
        request_id=context.request_id,
        route=context.route,
        method=request.method,
        status=int(status),
        model=model,
        tenant=context.tenant,
        ms=round(seconds * 1000, 1),
    )


@web.middleware
async def translate_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error raised before the answer began into the envelope."""
    try:
        return await handler(request)
    except ConnectionResetError:
        raise
    except Exception as error:
        context = context_of(request)
        worth = [told for told in context.told if told.worth_telling]
        reply = error_reply(error, context.edge({}) if worth else None)
        if reply.status >= 500 and not isinstance(error, CapacityError | UsageError):
            log.exception(
                "request failed",
                action="request_failed",
                request_id=context_of(request).request_id,
                route=context_of(request).route,
            )
        return reply


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check origin, key and `x-edge-*` headers before a byte of the body is read."""
    services, context = services_of(request), context_of(request)
    server = services.settings.server
    context.cors_origin = guards.check_browser(request.headers, server)
    if request.method == "OPTIONS" and context.cors_origin is not None:
        return _preflight()
    is_open = context.route in OPEN or (context.route == "/metrics" and server.open_metrics)
    if not is_open:
        context.tenant = guards.authenticate(request.headers, server.api_key_sha256)
    context.wishes = guards.wishes(request.headers)
    context.request_class = guards.request_class(request.headers)
    context.deadline_s = guards.deadline_s(
        request.headers, context.arrival_s, server.max_deadline_ms
    )
    return await handler(request)


@web.middleware
async def bound_concurrency(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Bound the work in progress. Reading state stays possible when the box is full."""
    services = services_of(request)
    if request.method != "POST":
        return await handler(request)
    if services.traffic.draining:
        raise CapacityError(
            "the daemon is stopping; ask again when it is back",
            retry_after_s=services.settings.server.drain_timeout_s,
            status=503,
        )
    limit = services.settings.server.max_concurrent_requests
    if services.traffic.active_requests >= limit:
        services.metrics.observe_rejected("", "concurrent_requests")
        raise CapacityError(
            f"{limit} requests are in progress already; try again shortly",
            retry_after_s=OVERLOAD_RETRY_S,
        )
    services.traffic.active_requests += 1
    services.metrics.gauge("edge_http_requests_active", value=services.traffic.active_requests)
    try:
        return await handler(request)
    finally:
        services.traffic.active_requests -= 1
        services.metrics.gauge("edge_http_requests_active", value=services.traffic.active_requests)


def _preflight() -> web.Response:
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": "authorization, content-type, x-edge-class, "
            "x-edge-deadline-ms, x-edge-endpoint, x-edge-task, x-edge-task-id, x-edge-tag, "
            "x-edge-privacy, cache-control, x-request-id",
            "Access-Control-Max-Age": "600",
        },
    )
