"""JSON answers and the error envelope.

Rules
- Every refusal is `{"error": {"message", "type", "param", "code"}}` with the right status, also
  for unknown routes, broken JSON, bodies that are too large and failures inside a stream.
- `code` is one of `CODES`; the reference page is made from it.
- What went wrong inside this program is logged, not told: callers get `internal_error`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import orjson
from aiohttp import web

from edge_runtime.errors import (
    BundleError,
    CapacityError,
    EngineError,
    TransportError,
    UsageError,
)
from edge_runtime.router.contract import FrontierError

JSON_TYPE = "application/json"

CODES: dict[str, tuple[int, str]] = {
    "invalid_value": (400, "A field's value is out of its range or of the wrong type."),
    "missing_field": (400, "A required field is not there."),
    "unknown_field": (400, "The body has a field that this route does not know."),
    "field_not_served": (400, "The field is known from OpenAI's API but not served here."),
    "invalid_json": (400, "The body is not one JSON object in UTF-8."),
    "invalid_header": (400, "An `x-edge-*` header has a value outside its range."),
    "not_configured": (400, "The settings leave out the part of the daemon this asks for."),
    "bad_request": (400, "The HTTP request itself is malformed."),
    "wrong_model_kind": (400, "The model does something else than this route asks for."),
    "context_length_exceeded": (400, "Prompt and answer do not fit the model; both are named."),
    "max_tokens_exceeded": (400, "More output tokens were asked for than the model's cap."),
    "no_chat_template": (400, "The model takes plain prompts only: use /v1/completions."),
    "invalid_api_key": (401, "No API key, or one that is not known."),
    "frontier_refused": (400, "The frontier that was to answer calls the request wrong."),
    "forbidden_origin": (403, "A web page from an origin that is not allowed sent this."),
    "forbidden_host": (403, "The `Host` header names neither this machine nor an allowed host."),
    "must_not_leave": (403, "Only a frontier could answer, and the request must not leave."),
    "forbidden_tenant": (403, "The key's tenant may not do this to another tenant's data."),
    "model_not_found": (404, "No active model, endpoint or frontier has that name."),
    "route_not_found": (404, "No such path."),
    "method_not_allowed": (405, "The path is there, but not for this method."),
    "body_timeout": (408, "The body did not arrive in time."),
    "body_too_large": (413, "The body is larger than `server.max_body_bytes`."),
    "over_capacity": (429, "The box is full; come back after `Retry-After` seconds."),
    "internal_error": (500, "This program failed; the log says how, under the request id."),
    "engine_error": (500, "A model run failed; the request is lost, the box goes on."),
    "frontier_failed": (502, "A frontier's answer broke off after its stream had begun."),
    "unavailable": (
        503,
        "Models are still loading, the daemon is stopping, or no frontier can answer.",
    ),
    "not_cached": (504, "`only-if-cached` was asked for, and nothing is kept."),
}

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "unavailable_error",
}

_CODE_OF_STATUS = {
    400: "bad_request",
    404: "route_not_found",
    405: "method_not_allowed",
    413: "body_too_large",
}


def json_bytes(payload: object) -> bytes:
    """UTF-8 JSON; float32 arrays are written as lists with their shortest digits."""
    return orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY)


def json_reply(
    payload: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """One JSON answer."""
    return web.Response(
        body=json_bytes(payload), status=status, headers=headers, content_type=JSON_TYPE
    )


def error_type(status: int) -> str:
    """The envelope's `type` for a status."""
    if status in _TYPES:
        return _TYPES[status]
    return "server_error" if status >= 500 else "invalid_request_error"


def envelope(
    status: int, message: str, *, code: str, param: str | None = None
) -> dict[str, dict[str, str | None]]:
    """The body of a refusal."""
    return {
        "error": {
            "message": message,
            "type": error_type(status),
            "param": param,
            "code": code,
        }
    }


def describe(error: Exception) -> tuple[int, dict[str, dict[str, str | None]], dict[str, str]]:
    """Status, body and extra headers for an error of any family."""
    match error:
        case UsageError():
            body = envelope(error.status, str(error), code=error.code, param=error.param)
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
            return error.status, body, headers
        case CapacityError():
            code = "over_capacity" if error.status == 429 else "unavailable"
            return error.status, envelope(error.status, str(error), code=code), _retry(error)
        case web.HTTPException():
            code = _CODE_OF_STATUS.get(error.status, "bad_request")
            return error.status, envelope(error.status, _http_message(error), code=code), {}
        case FrontierError():
            return 502, envelope(502, str(error), code="frontier_failed"), {}
        case EngineError() | BundleError() | TransportError():
            return 500, envelope(500, str(error), code="engine_error"), {}
        case _:
            text = "this program failed; the log says how, under this answer's x-request-id"
            return 500, envelope(500, text, code="internal_error"), {}


def error_reply(error: Exception, edge: Mapping[str, object] | None = None) -> web.Response:
    """The answer for an error of any family; `edge` says what was tried and what it cost."""
    status, error_body, headers = describe(error)
    body: Mapping[str, object] = error_body if edge is None else {**error_body, "edge": edge}
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return json_reply(body, status=status, headers=headers)


def _retry(error: CapacityError) -> dict[str, str]:
    seconds = max(0.0, error.retry_after_s)
    return {
        "Retry-After": str(max(1, math.ceil(seconds))),
        "retry-after-ms": str(math.ceil(seconds * 1000)),
    }


def _http_message(error: web.HTTPException) -> str:
    match error:
        case web.HTTPNotFound():
            return "no such path; docs/reference/http.md lists the routes"
        case web.HTTPMethodNotAllowed():
            return f"{error.method} is not served here; use {', '.join(error.allowed_methods)}"
        case web.HTTPRequestEntityTooLarge():
            return "the body is larger than server.max_body_bytes allows"
        case _:
            return error.reason
