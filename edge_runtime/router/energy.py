"""Joules of this box as the router books them: counters where there are any, else what is assumed.

Rules
- A counter belongs to the whole box. Its work (all but idling) over a period, divided by the
  seconds the engine was busy in it, gives the watts of working here; an attempt is charged those
  watts for its own busy seconds and says `model`. Until a period had work the assumption counts.
- Without a counter an attempt is charged the assumed watts of working and says `assumption`; when
  there are none either, nothing, and says `none`.
- What idling draws is booked apart, once a period, and is charged to no request. `busy_watts` is
  what the box draws while it works: the idle part of it is not charged again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_runtime.ledger.energy.account import Energy, modelled, split_idle
from edge_runtime.ledger.energy.counters import Counter, EnergyReader, Unavailable, difference
from edge_runtime.ledger.prices import LocalPrice
from edge_runtime.ledger.rows import JouleSource

MIN_BUSY_US = 200_000  # a period with less work says little about its watts
FORGET = 0.3
MAX_MILLIWATTS = 100_000_000


@dataclass(frozen=True, slots=True)
class IdleEnergy:
    """What a period drew beside the work."""

    energy_uj: int
    wall_us: int
    source: JouleSource


@dataclass(slots=True)
class EnergyMeter:
    """See the module. `readers` may be empty; `assume` False never takes assumed watts."""

    local: LocalPrice
    readers: Sequence[EnergyReader] = ()
    assume: bool = True
    _milliwatts: float | None = None
    _last: list[Mapping[str, Counter] | None] = field(default_factory=list)
    _last_us: int | None = None
    _last_busy_us: int = 0

    @property
    def counted(self) -> bool:
        """Whether any counter was read the last time."""
        return any(one is not None for one in self._last)

    def of(self, busy_us: int) -> Energy:
        """The work's joules of so many busy microseconds."""
        if self._milliwatts is not None:
            return modelled(busy_us, int(self._milliwatts), JouleSource.MODEL)
        watts = self._assumed()
        if watts is None:
            return Energy(0, JouleSource.NONE)
        return modelled(busy_us, watts, JouleSource.ASSUMPTION)

    def _assumed(self) -> int | None:
        busy = self.local.busy_milliwatts
        if busy is None or not self.assume:
            return None
        return max(0, busy - self.local.idle_milliwatts)

    def period(self, now_us: int, busy_us: int) -> IdleEnergy | None:
        """End a period: read counters, learn the watts of working, give the idle part.

        `busy_us` is the engine's total so far. Reads files or calls a driver: milliseconds.
        """
        readings = [reader.read() for reader in self.readers]
        now = [None if isinstance(one, Unavailable) else one for one in readings]
        before, self._last = self._last, now
        since_us, self._last_us = self._last_us, now_us
        worked_us, self._last_busy_us = busy_us - self._last_busy_us, busy_us
        if since_us is None or now_us <= since_us:
            return None
        wall_us = now_us - since_us
        pairs = [
            (first, last)
            for first, last in zip(before, now, strict=True)
            if first is not None and last is not None
        ]
        if not pairs:
            if not self.assume or not self.local.idle_milliwatts:
                return None
            idle = modelled(wall_us, self.local.idle_milliwatts, JouleSource.ASSUMPTION)
            return IdleEnergy(idle.energy_uj, wall_us, idle.source)
        total = sum(difference(first, last).energy_uj for first, last in pairs)
        split = split_idle(total, wall_us, self.local.idle_milliwatts)
        self._learn(split.work_uj, worked_us)
        return IdleEnergy(split.idle_uj, wall_us, JouleSource.COUNTER)

    def _learn(self, work_uj: int, busy_us: int) -> None:
        if busy_us < MIN_BUSY_US:
            return
        seen = min(work_uj * 1000 / busy_us, MAX_MILLIWATTS)
        known = self._milliwatts
        self._milliwatts = seen if known is None else known + FORGET * (seen - known)
