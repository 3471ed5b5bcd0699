"""Who may ask: API keys, web origins, `Host`, and the callers' `x-edge-*` headers.

A page in a browser on the same machine can reach a loopback port. Two checks stop it: requests
with an `Origin` that is neither this machine nor allowed are refused (cross-site posts), and so
are requests without keys whose `Host` is a foreign name (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import uuid
from collections.abc import Mapping
from urllib.parse import urlsplit

from edge_runtime.config import ServerSettings
from edge_runtime.core import RequestClass
from edge_runtime.errors import UsageError
from edge_runtime.router.contract import Privacy
from edge_runtime.router.plan import Wishes

_LABEL = re.compile(r"^[A-Za-z0-9._:/+=@-]{1,64}$")
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:/+=@-]{1,128}$")


def request_id(headers: Mapping[str, str]) -> str:
    """The caller's `x-request-id` when it is safe to log and echo, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.match(given) else uuid.uuid4().hex


def check_request_id(text: str) -> str:
    """A task's or request's id that a path names. Raises `UsageError`."""
    if not _REQUEST_ID.match(text):
        raise UsageError("an id is 1 to 128 of letters, digits and ._:/+=@-", param="id")
    return text


def request_class(headers: Mapping[str, str]) -> RequestClass:
    """`x-edge-class`; interactive when absent. Raises `UsageError`."""
    text = headers.get("x-edge-class")
    if text is None:
        return RequestClass.INTERACTIVE
    try:
        return RequestClass(text.strip().lower())
    except ValueError as error:
        allowed = " or ".join(RequestClass)
        raise UsageError(
            f"x-edge-class must be {allowed}", param="x-edge-class", code="invalid_header"
        ) from error


def deadline_s(headers: Mapping[str, str], now_s: float, limit_ms: int) -> float | None:
    """`x-edge-deadline-ms` as a point on the clock of `now_s`. Raises `UsageError`."""
    text = headers.get("x-edge-deadline-ms")
    if text is None:
        return None
    text = text.strip()
    # isdecimal alone accepts other scripts' digits and numbers of any length
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and 1 <= int(text) <= limit_ms):
        raise UsageError(
            f"x-edge-deadline-ms must be a whole number from 1 to {limit_ms}",
            param="x-edge-deadline-ms",
            code="invalid_header",
        )
    return now_s + int(text) / 1000


def wishes(headers: Mapping[str, str]) -> Wishes:
    """What the request says of its own routing. Raises `UsageError` naming the header."""
    return Wishes(
        endpoint=_label(headers, "x-edge-endpoint"),
        task=_label(headers, "x-edge-task"),
        tag=_label(headers, "x-edge-tag"),
        task_id=_label(headers, "x-edge-task-id", _REQUEST_ID),
        privacy=_privacy(headers.get("x-edge-privacy")),
    )


def _label(headers: Mapping[str, str], name: str, shape: re.Pattern[str] = _LABEL) -> str:
    text = headers.get(name, "")
    if text and not shape.match(text):
        most = 128 if shape is _REQUEST_ID else 64
        raise UsageError(
            f"{name} must be 1 to {most} of letters, digits and ._:/+=@-",
            param=name,
            code="invalid_header",
        )
    return text


def _privacy(text: str | None) -> Privacy:
    if text is None:
        return Privacy.MAY_LEAVE
    try:
        return Privacy(text.strip().lower())
    except ValueError as error:
        allowed = " or ".join(Privacy)
        raise UsageError(
            f"x-edge-privacy must be {allowed}", param="x-edge-privacy", code="invalid_header"
        ) from error


def authenticate(headers: Mapping[str, str], keys: Mapping[str, str]) -> str:
    """The tenant of the request's bearer key; "" when no keys are set.

    Every stored digest is compared, in constant time. Raises `UsageError` (401).
    """
    if not keys:
        return ""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
    found = ""
    for tenant, stored in keys.items():
        if hmac.compare_digest(stored, digest):
            found = tenant
    if scheme.lower() != "bearer" or not found:
        raise UsageError(
            "a known API key is needed: send `Authorization: Bearer KEY`",
            code="invalid_api_key",
            status=401,
        )
    return found


def check_browser(headers: Mapping[str, str], settings: ServerSettings) -> str | None:
    """The allowed cross-site origin that CORS headers must name, if any.

    Raises `UsageError` (403) for pages and host names that are not allowed.
    """
    host = headers.get("Host", "")
    if not settings.api_key_sha256 and not _is_ours(_host_name(host), settings):
        raise UsageError(
            f"Host {host!r} is not this machine; add it to server.allowed_hosts if it should be",
            param="Host",
            code="forbidden_host",
            status=403,
        )
    origin = headers.get("Origin")
    if origin is None:
        return None
    if origin in settings.cors_allowed_origins:
        return origin
    # a page the daemon itself served: same host and port
    if origin.partition("://")[2] == host and _is_ours(_host_name(host), settings):
        return None
    raise UsageError(
        f"pages from {origin!r} may not call this daemon; see server.cors_allowed_origins",
        param="Origin",
        code="forbidden_origin",
        status=403,
    )


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return "?"


def _is_ours(name: str, settings: ServerSettings) -> bool:
    if name in {"", "localhost", settings.host.lower(), *settings.allowed_hosts}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True  # rebinding needs a name; an address is what the caller typed
