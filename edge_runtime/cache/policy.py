"""May an answer come from the cache, and may it be kept? Pure.

Rules
- Kept are answers that a repetition would give again: temperature 0, or a fixed seed; and those
  the caller declared cacheable.
- `Cache-Control: no-store` neither reads nor keeps; `no-cache` does not read but keeps the fresh
  answer; `max-age=S` takes only answers that young and keeps the fresh one no longer;
  `only-if-cached` is for the caller to honour: see `Use.only_if_cached`.
- A directive this module does not know, or one with a broken value, is the careful one: a broken
  `max-age` counts as 0, and nothing unknown ever allows more.
- Only whole, good answers are kept: ended by `stop` or by tool calls, not by a limit, a cancel
  or an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_PART = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*("[^"]*"|[^",\s]*)\s*)?(?:,|$)')
FINISHED = ("stop", "tool_calls", "function_call")


@dataclass(frozen=True, slots=True)
class Directives:
    """What `Cache-Control` of a request asks for."""

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """What may be done for one request. `reason` says why something may not."""

    read: bool
    keep: bool
    ttl_s: int = 0
    max_age_s: int | None = None
    only_if_cached: bool = False
    reason: str = ""


def parse_cache_control(header: str | None) -> Directives:
    """Read a request's `Cache-Control`; anything malformed makes the result more careful."""
    if not header:
        return Directives()
    names: dict[str, str] = {}
    at = 0
    while at < len(header):
        found = _PART.match(header, at)
        if found is None:
            return Directives(no_store=True, no_cache=True)
        names[found[1].lower()] = (found[2] or "").strip('"')
        at = found.end()
    max_age = names.get("max-age")
    return Directives(
        no_store="no-store" in names,
        no_cache="no-cache" in names,
        only_if_cached="only-if-cached" in names,
        max_age_s=None if max_age is None else _seconds(max_age),
    )


def _seconds(text: str) -> int:
    return min(int(text), 2**31) if text.isascii() and text.isdigit() else 0


def use_for(
    parameters: Mapping[str, object],
    directives: Directives,
    *,
    ttl_s: int,
    allowed_by_caller: bool = False,
    deterministic_by_nature: bool = False,
) -> Use:
    """Decide for one request.

    `parameters` are the request's own, with defaults filled in: a missing temperature is not
    0. `deterministic_by_nature` is for embeddings and labels, which are not sampled.
    """
    if directives.no_store:
        return Use(read=False, keep=False, reason="no-store")
    if not (deterministic_by_nature or allowed_by_caller or is_deterministic(parameters)):
        return Use(
            read=False,
            keep=False,
            only_if_cached=directives.only_if_cached,
            reason="sampled: temperature is not 0 and no seed is set",
        )
    keep_s = ttl_s if directives.max_age_s is None else min(ttl_s, directives.max_age_s)
    stale = directives.no_cache or directives.max_age_s == 0
    return Use(
        read=not stale,
        keep=keep_s > 0,
        ttl_s=keep_s,
        max_age_s=directives.max_age_s,
        only_if_cached=directives.only_if_cached,
        reason="no-cache" if directives.no_cache else "max-age=0" if stale else "",
    )


def is_deterministic(parameters: Mapping[str, object]) -> bool:
    """True when the same request asks for the same answer: greedy, or seeded."""
    if parameters.get("seed") is not None:
        return True
    temperature = parameters.get("temperature")
    is_number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    return is_number and temperature == 0


def is_whole(finish_reasons: Iterable[str | None]) -> bool:
    """True when every choice of an answer ended by itself."""
    reasons = list(finish_reasons)
    return bool(reasons) and all(one in FINISHED for one in reasons)
