"""Frontier calls and a clock for tests: time passes only where somebody sleeps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.router.contract import FrontierCall, Payer
from edge_runtime.router.frontier.walk import Timing


@dataclass
class FakeTime:
    """A clock that `sleep` moves; `slept` are the waits that were asked for."""

    now_s: float = 1000.0
    draw: float = 0.5
    slept: list[float] = field(default_factory=list)

    @property
    def timing(self) -> Timing:
        return Timing(lambda: self.now_s, lambda: self.draw, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


def a_call(text: str = "hello there", **changes: Any) -> FrontierCall:
    """A chat of one user message."""
    values: dict[str, Any] = {
        "body": {"messages": [{"role": "user", "content": text}], "temperature": 0},
        "payer": Payer("request-1", "task-1", "tenant-1", "search"),
        "order": (),
        "prompt_tokens": 100_000,
        "max_output_tokens": 50,
        "reason": "low-confidence",
    }
    return FrontierCall(**(values | changes))
