"""Errors as the API tells them: `{"error": {"code", "message", "param", "request_id"}}`."""

from __future__ import annotations

import json
import math

from pydantic import BaseModel, Field, ValidationError

from edge_runtime.errors import (
    BundleError,
    CapacityError,
    ConfigError,
    EdgeError,
    TransportError,
    UsageError,
)


class ErrorDetail(BaseModel):
    """What went wrong, for programs and for people."""

    code: str = Field(description="Stable; for programs.")
    message: str = Field(description="What to do next; for people.")
    param: str | None = Field(None, description="The field it is about.")
    request_id: str = Field(description="Names the request in the control host's log.")


class ErrorAnswer(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


def told(error: EdgeError) -> tuple[int, str, str | None]:
    """Status, code and parameter of an error of ours."""
    if isinstance(error, UsageError):
        return error.status, error.code, error.param
    if isinstance(error, BundleError):
        return 400, "refused_document", None
    if isinstance(error, CapacityError):
        return error.status, error.reason, None
    if isinstance(error, TransportError):
        return 502, "broker_away", None
    if isinstance(error, ConfigError):
        return 503, "misconfigured", None
    return 500, "internal", None


def retry_after(error: EdgeError) -> str | None:
    """The header of errors that pass."""
    return str(math.ceil(error.retry_after_s)) if isinstance(error, CapacityError) else None


def invalid(error: ValidationError) -> UsageError:
    """The first fault of a body or a query."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"]) or "body"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return UsageError(f"{where}: {message}"[:500], param=where[:200])


def body_of(code: str, message: str, param: str | None, request_id: str) -> bytes:
    """The JSON of an error."""
    detail = {"code": code, "message": message, "param": param, "request_id": request_id}
    return json.dumps({"error": {k: v for k, v in detail.items() if v is not None}}).encode()
