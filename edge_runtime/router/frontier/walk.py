"""The way of one call along its frontiers: which is tried next, after which wait.

Rules
- The deciders (`retry`, `breaker`, `ordering`) decide; this keeps count and sleeps.
- Every frontier is tried at most `max_tries` times, and every wait is bounded, so a walk ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from edge_runtime.router.contract import FrontierError, FrontierWhy
from edge_runtime.router.frontier.breaker import Refusal
from edge_runtime.router.frontier.lane import Lane
from edge_runtime.router.frontier.ordering import Failure, summed_up
from edge_runtime.router.frontier.retry import Again, Stop, after_failure
from edge_runtime.router.frontier.verdict import Health, Repeat, Verdict


@dataclass(frozen=True, slots=True)
class Timing:
    """Clock, sleep and randomness, handed in so that tests need none of them."""

    clock: Callable[[], float]
    draw: Callable[[], float]
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep


@dataclass(slots=True)
class Walk:
    """See the module. `tries` and `cost_nano` are of all frontiers together."""

    lanes: Sequence[Lane]
    deadline_s: float | None
    timing: Timing
    tries: int = 0
    cost_nano: int = 0
    failures: list[Failure] = field(default_factory=list)
    start_s: float = field(init=False)
    _at: int = 0
    _tries_here: int = 0
    _wait_s: float = 0.0

    def __post_init__(self) -> None:
        self.start_s = self.timing.clock()

    @property
    def left_s(self) -> float | None:
        """Time until the caller's deadline; None when there is none."""
        return None if self.deadline_s is None else self.deadline_s - self.timing.clock()

    @property
    def alone(self) -> bool:
        """No other frontier of the order would take a call now."""
        return not self._others_admit(self.lanes)

    async def following(self) -> Lane | None:
        """The frontier to try now; None when there is none left."""
        while self._at < len(self.lanes):
            if self._wait_s > 0:
                wait_s, self._wait_s = self._wait_s, 0.0
                await self.timing.sleep(wait_s)
            lane = self.lanes[self._at]
            refusal = lane.look(self.timing.clock(), alone=self.alone)
            if refusal is None:
                return lane
            self.failed(refused_by_breaker(refusal), asked=False)
        return None

    def failed(self, verdict: Verdict, *, asked: bool) -> None:
        """The frontier that `following` gave did not answer."""
        lane = self.lanes[self._at]
        self.failures.append(
            Failure(lane.name, verdict.why, verdict.message, verdict.retry_after_s, asked=asked)
        )
        self._tries_here += 1
        decision = after_failure(
            verdict,
            lane.retry_rules,
            tries=self._tries_here,
            others=self._others_admit(self.lanes[self._at + 1 :]),
            left_s=self.left_s,
            draw=self.timing.draw(),
        )
        if isinstance(decision, Again):
            self._wait_s = decision.after_s
            return
        self._at = len(self.lanes) if isinstance(decision, Stop) else self._at + 1
        self._tries_here = 0

    def error(self, *, cut: bool = False) -> FrontierError:
        """What the caller is told; `cut` when part of an answer was given out."""
        told = summed_up(self.failures)
        return FrontierError(
            FrontierWhy.CUT if cut else told.why,
            told.message,
            retry_after_s=told.retry_after_s,
            tries=self.tries,
            cost_nano=self.cost_nano,
        )

    def _others_admit(self, lanes: Sequence[Lane]) -> bool:
        here = self.lanes[self._at] if self._at < len(self.lanes) else None
        now_s = self.timing.clock()
        return any(one is not here and one.look(now_s, alone=False) is None for one in lanes)


def refused_by_breaker(refusal: Refusal) -> Verdict:
    """A breaker's refusal as a verdict: a pause may be waited out, nothing else."""
    messages = {
        FrontierWhy.OUT_OF_CREDIT: "said that our credit there is used up",
        FrontierWhy.RATE_LIMITED: "asked for a pause",
    }
    paused = refusal.why is FrontierWhy.RATE_LIMITED
    return Verdict(
        refusal.why,
        messages.get(refusal.why, "failed several times and is left alone for a while"),
        Health.UNKNOWN,
        Repeat.LATER if paused else Repeat.NEXT,
        retry_after_s=refusal.retry_after_s,
    )
