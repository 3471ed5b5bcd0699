"""Time, handed in: seconds that never jump, and waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock and a way to wait on it."""

    def now_s(self) -> float:
        """Seconds since some start."""

    async def sleep(self, seconds: float) -> None:
        """Wait; may be cancelled."""


class RealClock:
    """The machine's clock."""

    def now_s(self) -> float:
        """See `Clock.now_s`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still but for waits, which end at once and move it."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        """See `Clock.now_s`."""
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        self.at_s += seconds
        await asyncio.sleep(0)
