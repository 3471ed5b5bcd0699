"""Many simulated boxes over real connections, on one event loop.

Rules
- One loop, one heap of due times; a box costs nothing while nothing is due.
- At most `connects_per_s` connections are begun, real seconds: a broker that comes back is not run
  over. A lost connection is tried again after a wait drawn from 0 to a limit that doubles.
- What a box says while it has no connection is not kept here; the box says it again.

Example::

    swarm = Swarm(boxes, passwords, Lines(host, port), FastClock(60.0))
    task = asyncio.create_task(swarm.run())
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import heapq
import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from edge_runtime.agent.protocol import Channel
from fleet.simulator.box import Out, SimBox
from fleet.simulator.clock import FastClock
from fleet.simulator.mqtt import Lines

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 30.0
LONGEST_SLEEP_S: Final = 0.5
_SLICE: Final = 100
"""Boxes served before sockets get their turn."""


class _Line(enum.Enum):
    DOWN = enum.auto()
    DIALLING = enum.auto()
    UP = enum.auto()


@dataclass(slots=True)
class _Seat:
    """A box and its connection. `due_s` is simulated; `dial_s`, of the loop's clock, real."""

    box: SimBox
    line: _Line = _Line.DOWN
    tries: int = 0
    due_s: float = 0.0
    dial_s: float | None = None


@dataclass
class Swarm:
    """See the module. `passwords` by principal; `counts` are messages by channel, and connects."""

    boxes: Sequence[SimBox]
    passwords: Mapping[str, str | None]
    lines: Lines
    clock: FastClock
    connects_per_s: float = 200.0
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._seats = [_Seat(box) for box in self.boxes]
        self._rng = random.Random(f"swarm/{self.seed}")
        self._heap: list[tuple[float, int]] = []
        self._dials: list[tuple[float, int]] = []
        self._inbox: deque[tuple[int, Channel, bytes]] = deque()
        self._wake = asyncio.Event()
        self._next_dial_s = 0.0
        self.lines.crowd = self

    @property
    def connected(self) -> int:
        """How many connections are up."""
        return sum(seat.line is _Line.UP for seat in self._seats)

    async def run(self) -> None:
        """Let them live until cancelled; then they say goodbye."""
        loop = asyncio.get_running_loop()
        for number in range(len(self._seats)):
            self._settle(number, [])
        pings = asyncio.ensure_future(self.lines.keep_alive())
        try:
            while True:
                self._wake.clear()
                self._dial_due(loop.time())
                if self._serve():
                    await asyncio.sleep(0)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._sleep_s(loop.time())):
                        await self._wake.wait()
        finally:
            pings.cancel()
            self.lines.close()
            await asyncio.gather(pings, return_exceptions=True)

    # What connections say; see `Crowd`.

    def is_up(self, number: int) -> None:
        """See `Crowd`."""
        seat = self._seats[number]
        seat.line, seat.tries = _Line.UP, 0
        self.counts["connects"] += 1
        self._settle(number, seat.box.connected(self.clock.now_s()))

    def is_down(self, number: int) -> None:
        """See `Crowd`."""
        seat = self._seats[number]
        if seat.line is _Line.UP:
            self.counts["disconnects"] += 1
        seat.line = _Line.DOWN
        seat.box.disconnected()
        self._settle(number, [])

    def message(self, number: int, channel: Channel, payload: bytes) -> None:
        """See `Crowd`. Only enqueues, as callbacks of a box do."""
        self._inbox.append((number, channel, payload))
        self._wake.set()

    # Inside.

    def _serve(self) -> bool:
        """Serve a slice of what is due; whether there was anything."""
        served = 0
        while self._inbox and served < _SLICE:
            number, channel, payload = self._inbox.popleft()
            self.counts[f"in:{channel}"] += 1
            self._settle(
                number, self._seats[number].box.heard(channel, payload, self.clock.now_s())
            )
            served += 1
        now_s = self.clock.now_s()
        while self._heap and self._heap[0][0] <= now_s and served < _SLICE:
            due_s, number = heapq.heappop(self._heap)
            if due_s == self._seats[number].due_s:
                self._settle(number, self._seats[number].box.wake(now_s))
                served += 1
        return served > 0

    def _settle(self, number: int, messages: list[Out]) -> None:
        """Send what a box says, keep its connection as it wants it, note when it is due."""
        seat = self._seats[number]
        box = seat.box
        for message in messages:
            if seat.line is _Line.UP and self.lines.publish(number, box.spec.principal, message):
                self.counts[f"out:{message.channel}"] += 1
            else:
                self.counts["unsent"] += 1
                box.unsent()
        wanted = box.wants_link
        if seat.line is _Line.UP and not (box.up and wanted):
            self.lines.drop(number)
        elif seat.line is _Line.DOWN and wanted and seat.dial_s is None:
            self._plan_dial(number, seat)
        if box.next_s != seat.due_s:
            seat.due_s = box.next_s
            heapq.heappush(self._heap, (seat.due_s, number))

    def _plan_dial(self, number: int, seat: _Seat) -> None:
        now_s = asyncio.get_running_loop().time()
        limit_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(seat.tries, 16))
        wait_s = self._rng.random() * limit_s if seat.tries else 0.0
        seat.tries += 1
        self._next_dial_s = max(self._next_dial_s + 1.0 / self.connects_per_s, now_s)
        seat.dial_s = max(self._next_dial_s, now_s + wait_s)
        heapq.heappush(self._dials, (seat.dial_s, number))

    def _dial_due(self, now_s: float) -> None:
        while self._dials and self._dials[0][0] <= now_s:
            _, number = heapq.heappop(self._dials)
            seat = self._seats[number]
            seat.dial_s = None
            if seat.line is not _Line.DOWN or not seat.box.wants_link:
                continue
            seat.line = _Line.DIALLING
            principal = seat.box.spec.principal
            will = seat.box.dial()
            self.lines.dial(number, principal, self.passwords.get(principal), will)

    def _sleep_s(self, now_s: float) -> float:
        sleeps = [LONGEST_SLEEP_S]
        if self._heap:
            sleeps.append(self.clock.real_s(self._heap[0][0] - self.clock.now_s()))
        if self._dials:
            sleeps.append(self._dials[0][0] - now_s)
        return max(0.001, min(sleeps))
