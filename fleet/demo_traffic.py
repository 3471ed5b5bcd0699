"""Steady requests to a daemon, and what became of them.

Rules
- One request every `every_s`, whatever the answers do: a daemon that stalls cannot hide it.
- A request fails when its status is not 200, its connection breaks, or it takes `LIMIT_S`.
- What is kept is bounded: counts, the first failures in words, the slowest.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

LIMIT_S: Final = 30.0
AT_ONCE: Final = 64
NAMED_FAILURES: Final = 5
OVERLOADED: Final = "too many requests wait for an answer"


@dataclass
class Tally:
    """Requests since the tally began. `answered_by` as the daemon says; `tiers` likewise.

    `slowest_s` and `seconds` are of answers, from when they were due.
    """

    requests: int = 0
    failed: int = 0
    answered_by: Counter[str] = field(default_factory=Counter)
    tiers: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def fail(self, why: str) -> None:
        """Count one that failed."""
        self.requests += 1
        self.failed += 1
        if len(self.failures) < NAMED_FAILURES:
            self.failures.append(why)

    def answer(self, headers: Mapping[str, str], took_s: float) -> None:
        """Count one that was answered."""
        self.requests += 1
        self.answered_by[headers.get("x-edge-answered-by", "")] += 1
        self.tiers[headers.get("x-edge-tier", "")] += 1
        self.slowest_s = max(self.slowest_s, took_s)
        self.seconds += took_s

    @property
    def mean_s(self) -> float:
        """Mean seconds of an answer; 0 without one."""
        return self.seconds / max(1, self.requests - self.failed)


@dataclass
class Traffic:
    """Sends `bodies` to `path` of a daemon, one after another and over again, while `run` runs."""

    url: str
    path: str
    bodies: Sequence[Mapping[str, Any]]
    every_s: float
    tally: Tally = field(default_factory=Tally)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def cut(self) -> Tally:
        """The tally so far; a new one begins."""
        done, self.tally = self.tally, Tally()
        return done

    async def run(self) -> None:
        """Send until cancelled; requests in progress are given up then."""
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        begin_s = time.monotonic()
        async with aiohttp.ClientSession(self.url, timeout=timeout) as session:
            try:
                for number, body in enumerate(itertools.cycle(self.bodies)):
                    due_s = begin_s + number * self.every_s
                    await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                    self._send(session, body, due_s)
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, session: aiohttp.ClientSession, body: Mapping[str, Any], due_s: float) -> None:
        if len(self._tasks) >= AT_ONCE:
            self.tally.fail(OVERLOADED)
            return
        task = asyncio.create_task(self._one(session, body, due_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(
        self, session: aiohttp.ClientSession, body: Mapping[str, Any], due_s: float
    ) -> None:
        try:
            async with session.post(self.path, json=body) as response:
                said = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.tally.fail(f"{type(error).__name__}: {error}")
            return
        if response.status != 200:
            self.tally.fail(f"{response.status}: {said[:300].decode('utf-8', 'replace')}")
        else:
            self.tally.answer(response.headers, time.monotonic() - due_s)
