"""The HTTP server: from a request to a `Call`, and from what a handler gives to an answer.

Rules
- In this order: size, token, role, path, query, body. Who has no token learns nothing else.
- Whatever a handler raises becomes one error envelope; what is not ours becomes a 500 that names
  the request and nothing of the inside.
- Every answer forbids caching and sniffing: it may hold what only this caller may see.
"""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from edge_runtime.errors import CapacityError, ConfigError, EdgeError, UsageError
from fleet.api.errors import body_of, invalid, retry_after, told
from fleet.api.openapi import document
from fleet.api.routes import Call, Raw, Route
from fleet.api.services import Services
from fleet.api.table import ROUTES
from fleet.registry import tokens
from fleet.registry.audit import Actor
from fleet.registry.tokens import MAY, Permission
from fleet.web.api import console_routes

log = structlog.get_logger(__name__)

REQUEST_ID: Final = "x-request-id"
STREAM_BYTES: Final = 256 * 1024
_ID: Final = web.RequestKey("request_id", str)
_NOBODY: Final = Actor("anybody", "box")
_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(services: Services, routes: Sequence[Route] = ROUTES) -> web.Application:
    """The application: `routes`, `/openapi.json`, which describes them, and the console at `/`."""
    app = web.Application(
        client_max_size=services.settings.api.max_body_bytes, middlewares=[_envelope]
    )
    for route in routes:
        app.router.add_route(route.method, route.path, _handler(services, route))
    described = json.dumps(document(routes)).encode()

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=described, content_type="application/json", headers=_HEADERS)

    app.router.add_get("/openapi.json", openapi)
    app.add_routes(console_routes())
    return app


def tls_context(services: Services) -> ssl.SSLContext | None:
    """The API's certificate, or None for plain HTTP. Raises `ConfigError`."""
    settings = services.settings.api
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"api.tls_certificate: cannot be used: {error}") from error
    return context


def _handler(services: Services, route: Route) -> _Next:
    async def handle(request: web.Request) -> web.StreamResponse:
        actor = await _actor(services, route, request)
        call = Call(
            services=services,
            actor=actor,
            path={name: request.match_info[name] for name in route.parameters},
            query=_query(route, request),
            body=None,
        )
        if route.body is not None or route.takes_bytes:
            raw = await request.read()
            parsed = None if route.body is None else _body(route.body, raw)
            call = Call(services, actor, call.path, call.query, parsed, raw)
        elif route.takes_stream:
            call = replace(
                call,
                stream=request.content.iter_chunked(STREAM_BYTES),
                length=request.content_length,
            )
        answer = await route.handler(call)
        if isinstance(answer, Raw):
            return web.Response(
                body=answer.body, status=route.status, headers={"content-type": answer.content_type}
            )
        text = answer.model_dump_json(by_alias=True)
        return web.Response(text=text, status=route.status, content_type="application/json")

    return handle


async def _actor(services: Services, route: Route, request: web.Request) -> Actor:
    """Who calls. Raises `UsageError` 401 or 403."""
    request_id = request[_ID]
    if route.permission is None:
        return Actor(_NOBODY.name, _NOBODY.role, request_id)
    if route.path == "/metrics" and services.settings.api.open_metrics:
        return Actor(_NOBODY.name, _NOBODY.role, request_id)
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    now_s = services.now()
    token = None
    if scheme.lower() == "bearer":
        token = await services.database.read(lambda c: tokens.find(c, secret.strip(), now_s=now_s))
    if token is None:
        raise UsageError(
            "a bearer token that holds is needed; make one with `edge-fleet tokens create`",
            code="unauthorized",
            status=401,
        )
    _allow(route.permission, token)
    if tokens.wants_touch(token, now_s=now_s):
        found = token
        await services.database.write(lambda c: tokens.touch(c, found, now_s=now_s))
    return Actor(token.name, token.role.value, request_id)


def _allow(permission: Permission, token: tokens.Token) -> None:
    if permission not in MAY[token.role]:
        needed = ", ".join(role for role, may in MAY.items() if permission in may)
        raise UsageError(
            f"a {token.role} may not do this; it takes one of: {needed}",
            code="forbidden",
            status=403,
        )


def _query(route: Route, request: web.Request) -> BaseModel:
    given: dict[str, Any] = {}
    for name, value in request.query.items():
        if name in given:
            raise UsageError(f"{name}: is given twice", param=name[:200])
        given[name] = value
    try:
        return route.query.model_validate(given)
    except ValidationError as error:
        raise invalid(error) from error


def _body(model: type[BaseModel], raw: bytes) -> BaseModel:
    try:
        return model.model_validate_json(raw or b"{}")
    except ValidationError as error:
        raise invalid(error) from error


@web.middleware
async def _envelope(request: web.Request, handler: _Next) -> web.StreamResponse:
    given = request.headers.get(REQUEST_ID, "")
    request_id = given if given.isalnum() and len(given) <= 64 else secrets.token_hex(8)
    request[_ID] = request_id
    try:
        response = await handler(request)
    except EdgeError as error:
        status, code, param = told(error)
        response = _error(status, code, str(error), param, request_id)
        if (wait := retry_after(error)) is not None:
            response.headers["retry-after"] = wait
        if status >= 500 and not isinstance(error, CapacityError):
            log.exception("request failed", action="api.failed", request_id=request_id)
    except web.HTTPRequestEntityTooLarge:
        response = _error(413, "too_large", "the body is too large", None, request_id)
    except web.HTTPException as error:
        response = _error(error.status, "not_found", error.reason, None, request_id)
        if "Allow" in error.headers:
            response.headers["allow"] = error.headers["Allow"]
    except Exception:
        log.exception("request failed", action="api.failed", request_id=request_id)
        message = f"this is a fault of the control host; its log has more under {request_id}"
        response = _error(500, "internal", message, None, request_id)
    for name, value in {**_HEADERS, REQUEST_ID: request_id}.items():
        response.headers.setdefault(name, value)
    return response


def _error(
    status: int, code: str, message: str, param: str | None, request_id: str
) -> web.Response:
    return web.Response(
        status=status,
        body=body_of(code, message, param, request_id),
        content_type="application/json",
        headers={"www-authenticate": "Bearer"} if status == 401 else None,
    )
