"""From bytes to a validated request: which fields are served, inert, or refused.

Rules
- A field that could change the answer is honoured or refused with 400, never dropped.
- `INERT` fields cannot change an answer: accepted, ignored and counted.
- `NOT_SERVED` fields are accepted only with a value that asks for nothing (null, `[]`, "none").
- Any other unknown field is refused by name.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from edge_runtime.errors import UsageError
from edge_runtime.server.context import services_of

INERT: frozenset[str] = frozenset(
    {
        "cache_salt",
        "metadata",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

# name -> values besides null that ask for nothing
NOT_SERVED: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1, 1.0),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "typical_p": (1, 1.0),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}

_MISSING = frozenset({"missing"})


class Body(BaseModel):
    """Base of request bodies: exact types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


T = TypeVar("T", bound=Body)


async def read_body(request: web.Request, shape: type[T]) -> T:
    """Read, sort out and validate the body.

    Raises `UsageError`: 408 when it does not arrive, 400 naming the field otherwise;
    `web.HTTPRequestEntityTooLarge` past `server.max_body_bytes`.
    """
    return read_fields(request, parse_object(await read_bytes(request)), shape)


async def read_bytes(request: web.Request) -> bytes:
    """The body's bytes. Raises like `read_body`."""
    services = services_of(request)
    try:
        async with asyncio.timeout(services.settings.server.body_timeout_s):
            return await request.read()
    except TimeoutError as error:
        raise UsageError(
            "the body did not arrive in server.body_timeout_s", code="body_timeout", status=408
        ) from error


def read_fields(request: web.Request, data: Mapping[str, Any], shape: type[T]) -> T:
    """Sort out and validate the fields of a body that was read. Raises `UsageError`."""
    fields, inert = sort_fields(data, shape)
    for name in inert:
        services_of(request).metrics.count("edge_http_inert_fields_total", name)
    return validate(fields, shape)


def parse_object(raw: bytes) -> dict[str, Any]:
    """One JSON object. Raises `UsageError`."""
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"the body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(data, dict):
        raise UsageError("the body must be one JSON object", code="invalid_json")
    return data


def sort_fields(data: Mapping[str, Any], shape: type[Body]) -> tuple[dict[str, Any], list[str]]:
    """The fields for `shape`, and the names of inert ones. Raises `UsageError`."""
    served: dict[str, Any] = {}
    inert: list[str] = []
    for name, value in data.items():
        if name in shape.model_fields:
            served[name] = value
        elif name in INERT:
            inert.append(name)
        elif name in NOT_SERVED:
            _refuse_unless_neutral(name, value)
        else:
            near = difflib.get_close_matches(name, list(shape.model_fields), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown field {name!r}{hint}", param=name, code="unknown_field")
    return served, inert


def _refuse_unless_neutral(name: str, value: object) -> None:
    if value is None or any(value == ok and type(value) is type(ok) for ok in NOT_SERVED[name]):
        return
    raise UsageError(
        f"{name} is not served here; leave it out",
        param=name,
        code="field_not_served",
    )


def validate(fields: Mapping[str, Any], shape: type[T]) -> T:
    """Validate; null counts as absent where a field is optional. Raises `UsageError`."""
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise _usage_error(error) from error


def _usage_error(error: ValidationError) -> UsageError:
    """The first problem, in the caller's words: the path of the field and what it may be."""
    items = error.errors(include_url=False, include_context=False)
    # a union reports every branch; the deepest location is the one the caller meant
    item = max(items, key=lambda found: len(found["loc"]))
    location = [str(part) for part in item["loc"]]
    param = ".".join(part for part in location if not _is_branch(part)) or None
    code = "missing_field" if item["type"] in _MISSING else "invalid_value"
    if item["type"] == "extra_forbidden":
        code = "unknown_field"
    message = item["msg"].removeprefix("Value error, ")
    return UsageError(f"{param}: {message}" if param else message, param=param, code=code)


def _is_branch(part: str) -> bool:
    """Pydantic names union branches in locations, as in `input.list[str].0`."""
    return "[" in part or part in {"str", "int", "float", "bool"}
