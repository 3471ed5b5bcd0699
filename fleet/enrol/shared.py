"""Work that many ask for at once and that is done once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Shared:
    """Runs a job one at a time; all who ask while it runs share the next run.

    A run that began after the call has seen everything the caller had done before it, so nobody
    needs a run of its own. A job that fails raises to the one that ran it; the next of those who
    wait tries again.
    """

    def __init__(self, job: Callable[[], Awaitable[None]]) -> None:
        self._job = job
        self._lock = asyncio.Lock()
        self._asked = 0
        self._covered = 0

    async def run(self) -> None:
        """Return once a run that began after this call has ended well. Raises what the job does."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._covered >= mine:
                return
            covers = self._asked
            await self._job()
            self._covered = covers
