"""Simulated time: real time, made faster by a stated factor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FastClock:
    """`factor` simulated seconds pass in a real one, beginning at `start_s` (UTC epoch seconds).

    `zero_s` is the monotonic clock at `start_s`; processes of one machine share that clock.
    Control host and boxes must share one, or silences and bake times mean different things to
    them. Sockets, disks and databases stay in real time.
    """

    factor: float = 1.0
    start_s: float = field(default_factory=time.time)
    zero_s: float = field(default_factory=time.monotonic)
    monotonic_s: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 100_000:
            raise ValueError("the factor must be above 0 and at most 100000")

    def now_s(self) -> float:
        """Simulated UTC epoch seconds."""
        return self.start_s + (self.monotonic_s() - self.zero_s) * self.factor

    def real_s(self, simulated_s: float) -> float:
        """How long a simulated stretch takes."""
        return simulated_s / self.factor
