"""Keep long tokenising off the event loop: tokens of other requests must go on flowing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

INLINE_CHARS = 8192  # about a millisecond of tokenising; a thread hop costs a tenth of that

T = TypeVar("T")


async def offload(work: Callable[[], T], *, chars: int) -> T:
    """Run `work` here when it is about few characters, else in a worker thread."""
    if chars <= INLINE_CHARS:
        return work()
    return await asyncio.to_thread(work)
