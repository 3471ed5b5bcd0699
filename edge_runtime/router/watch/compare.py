"""Whether two answers to one request are the same. Pure."""

from __future__ import annotations

import json
import math
import re
import unicodedata

from edge_runtime.router.watch.contract import HowToCompare

_SPACE = re.compile(r"\s+")
_END = " \t\r\n.!?…。！？"  # noqa: RUF001 - full-width forms are meant


def same_answer(one: str, other: str, how: HowToCompare) -> bool:
    """Whether the answers agree; see `HowToCompare`. Never raises."""
    if how is HowToCompare.LABEL:
        return one.strip().casefold() == other.strip().casefold()
    if how is HowToCompare.TEXT:
        return normal_text(one) == normal_text(other)
    left, right = _json(one), _json(other)
    return left is not None and left == right


def normal_text(text: str) -> str:
    """Compatibility forms, case, runs of white space and end punctuation made alike."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _SPACE.sub(" ", folded).strip(_END)


def _json(text: str) -> str | None:
    try:
        return json.dumps(_plain(json.loads(text)), sort_keys=True, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _plain(value: object) -> object:
    """1 and 1.0 are the same number; NaN is none."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("not JSON")
        return int(value) if value.is_integer() else value
    return value
