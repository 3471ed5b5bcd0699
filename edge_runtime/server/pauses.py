"""Short pauses for memory: what lives as long as the process is looked at once, not for ever.

Python's collector walks everything alive from time to time. With models loaded that is hundreds
of thousands of objects that never go, and tens of milliseconds in which nobody is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

import structlog

from edge_runtime.core import ModelHost

log: Final = structlog.get_logger("edge_runtime.server")

YOUNG_OBJECTS = 10_000
"""New objects after which the young are looked at; a request makes some thousands."""
LOOK_AGAIN_S = 1.0


@contextlib.asynccontextmanager
async def short_pauses(
    host: ModelHost, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> AsyncGenerator[None, None]:
    """Once the models are loaded, leave what is alive then out of later collections.

    On leaving the collector is as it was before.
    """
    before = gc.get_threshold()
    task = asyncio.create_task(_settle(host, sleep), name="edge-short-pauses")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gc.unfreeze()
        gc.set_threshold(*before)


async def _settle(host: ModelHost, sleep: Callable[[float], Awaitable[object]]) -> None:
    while not host.ready:
        await sleep(LOOK_AGAIN_S)
    # What loading left behind must go first: nobody would look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    log.debug("memory settled", action="memory_settled", objects=gc.get_freeze_count())
