"""JSON as the bundle formats use it: strict when read, RFC 8785 (JCS) when written.

One value has exactly one byte form, so that a digest or a signature of a document does not
depend on who wrote it.
"""

from __future__ import annotations

import json
from typing import Any

import rfc8785


def canonical_bytes(value: object) -> bytes:
    """The RFC 8785 form of `value`, UTF-8.

    Takes what JSON can hold: None, bool, int, float, str, lists or tuples, and dicts with
    string keys. Raises `ValueError` for anything else, for NaN and infinities, for integers
    beyond +-(2**53 - 1) and for lone surrogates: none of them has a portable JSON form.
    Floats from 2**53 up to 1e21 are written like integers and read back as refused ones.
    """
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # it checks the value itself
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise ValueError(f"has no canonical JSON form: {error}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def parse_strict(data: bytes) -> Any:
    """The value of a JSON document.

    Raises `ValueError` with a reason for people when it is not UTF-8, is truncated or
    malformed, names a key twice in one object, is nested too deeply, or holds NaN.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}") from error
    try:
        return json.loads(
            text, object_pairs_hook=_object_without_duplicates, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"is not JSON (truncated?): {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"names a key twice: {', '.join(twice)}")
    return result


def _no_constant(literal: str) -> float:
    raise ValueError(f"holds {literal}, which is not JSON")
