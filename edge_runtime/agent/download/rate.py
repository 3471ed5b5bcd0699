"""Pace: a token bucket in bytes. The bucket is pure; `Pacer` waits by a clock."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.agent.download.clock import Clock


@dataclass
class TokenBucket:
    """Lets `rate_bytes_s` through on average, and `burst_bytes` at once.

    Bytes are taken after they came, so the bucket may go into debt; the answer says how long to
    wait until it is paid. Over any time t at most burst + rate * t bytes pass, plus the last piece.
    """

    rate_bytes_s: float
    burst_bytes: float
    tokens: float = 0.0
    filled_s: float | None = None

    def __post_init__(self) -> None:
        assert self.rate_bytes_s > 0
        assert self.burst_bytes >= 0

    def take(self, size: int, now_s: float) -> float:
        """Take `size` bytes at `now_s`; seconds to wait before more may be taken."""
        if self.filled_s is None:
            self.tokens = self.burst_bytes
        elif now_s > self.filled_s:  # a clock that went back earns nothing
            earned = (now_s - self.filled_s) * self.rate_bytes_s
            self.tokens = min(self.burst_bytes, self.tokens + earned)
        self.filled_s = now_s if self.filled_s is None else max(now_s, self.filled_s)
        self.tokens -= size
        return max(0.0, -self.tokens / self.rate_bytes_s)


class Pacer:
    """Waits as a bucket says; without one, not at all. Shared by all transfers of a job."""

    def __init__(self, bucket: TokenBucket | None, clock: Clock) -> None:
        self._bucket = bucket
        self._clock = clock

    async def took(self, size: int) -> None:
        """`size` bytes came; return when more may come."""
        if self._bucket is not None:
            wait_s = self._bucket.take(size, self._clock.now_s())
            if wait_s > 0:
                await self._clock.sleep(wait_s)
