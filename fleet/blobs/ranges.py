"""What a request for a part of a file asks for (RFC 9110, sections 13 and 14). Pure.

Rules
- One range of bytes is served as such. Several ranges, other units and malformed headers are
  ignored, as the RFC allows: the answer is then the whole file.
- A range that begins past the end cannot be satisfied. An `If-Range` that names another version
  than ours makes the answer the whole file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes `start` to `stop` (exclusive) of `size`; `whole` when no range was asked for."""

    start: int
    stop: int
    size: int
    whole: bool

    @property
    def content_range(self) -> str:
        """The header of a 206 answer."""
        return f"bytes {self.start}-{self.stop - 1}/{self.size}"


def choose_part(size: int, etag: str, range_: str | None, if_range: str | None) -> Part | None:
    """The part of a file of `size` bytes to send; None when it cannot be satisfied.

    `etag` is ours, in quotes. A date in `If-Range` never matches: blobs have none.
    """
    whole = Part(0, size, size, whole=True)
    if range_ is None or (if_range is not None and if_range.strip() != etag):
        return whole
    found = _RANGE.fullmatch(range_)
    if found is None:
        return whole
    first, last = found[1], found[2]
    if not first:
        if not last:
            return whole
        start, stop = max(size - int(last), 0), size
    else:
        start = int(first)
        stop = size if not last else min(int(last) + 1, size)
        if last and int(last) < start:
            return whole
    return Part(start, stop, size, whole=False) if start < stop else None


def matches(etag: str, if_none_match: str | None) -> bool:
    """Whether the caller has this version already."""
    if if_none_match is None:
        return False
    known = [item.strip().removeprefix("W/") for item in if_none_match.split(",")]
    return etag in known or "*" in known
