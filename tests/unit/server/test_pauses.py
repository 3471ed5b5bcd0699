"""What lives for ever is left out of collections once models are loaded, and taken in again."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

from edge_runtime.server.pauses import LOOK_AGAIN_S, YOUNG_OBJECTS, short_pauses


async def test_the_loaded_process_is_frozen_while_the_server_runs() -> None:
    host: Any = SimpleNamespace(ready=False)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert gc.get_freeze_count() == before_count
        host.ready = True

    before, before_count = gc.get_threshold(), gc.get_freeze_count()
    async with short_pauses(host, sleep):
        for _ in range(5):
            await asyncio.sleep(0)
        assert slept == [LOOK_AGAIN_S]
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[0] == YOUNG_OBJECTS
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
