"""Whether an answer is of the JSON form its caller asked for. Pure.

Rules
- A schema is checked before it is used; one that is wrong, or too large, is the caller's error.
- References out of the schema are never fetched.
- Schemas with regular expressions are not judged here: matching a caller's pattern can take for
  ever. Such a request is no local model's, see `judged_here`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema
import orjson
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from edge_runtime.errors import UsageError

MAX_SCHEMA_BYTES = 64 * 1024
_PATTERNS = (b'"pattern"', b'"patternProperties"', b'"format"')


class AnswerForm:
    """What `response_format` asks for. Raises `UsageError` for one that is no format."""

    def __init__(self, response_format: Mapping[str, Any]) -> None:
        self._validator: jsonschema.Draft202012Validator | None = None
        self.judged_here = True
        kind = response_format.get("type")
        if kind == "json_object":
            return
        if kind != "json_schema":
            raise _wrong("type must be text, json_object or json_schema")
        named = response_format.get("json_schema")
        schema = named.get("schema") if isinstance(named, Mapping) else None
        if not isinstance(schema, Mapping):
            raise _wrong("json_schema.schema must be an object")
        data = orjson.dumps(schema)
        if len(data) > MAX_SCHEMA_BYTES:
            raise _wrong(f"the schema is larger than {MAX_SCHEMA_BYTES} bytes")
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise _wrong(f"the schema is wrong: {error.message}") from error
        self.judged_here = not any(word in data for word in _PATTERNS)
        self._validator = jsonschema.Draft202012Validator(schema, registry=Registry())

    def problem(self, content: str) -> str | None:
        """What is wrong with an answer's text; None when it is of the form."""
        try:
            value = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            return f"the answer is not JSON: {error}"
        if self._validator is None:
            return None if isinstance(value, dict) else "the answer is not a JSON object"
        try:
            found = next(iter(self._validator.iter_errors(value)), None)
        except (Unresolvable, RecursionError) as error:
            return f"the schema cannot be followed: {error}"
        return None if found is None else f"the answer is not of the schema: {found.message[:200]}"


def form_of(response_format: Mapping[str, Any] | None) -> AnswerForm | None:
    """The form an answer must have; None for plain text. Raises `UsageError`."""
    if response_format is None or response_format.get("type") == "text":
        return None
    return AnswerForm(response_format)


def _wrong(what: str) -> UsageError:
    return UsageError(f"response_format: {what}", param="response_format")
