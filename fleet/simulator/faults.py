"""What befalls boxes: how often, and for each box when. Seeded.

Rules
- A schedule is drawn from the seed and the box alone, so it is the same in every run, whatever the
  network does meanwhile.
- Every rate is bounded, and 0 by default: a fault nobody asked for never happens.
"""

from __future__ import annotations

import enum
import random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

DAY_S = 86_400.0
Share = Annotated[float, Field(ge=0, le=1)]
PerDay = Annotated[float, Field(ge=0, le=10_000)]
Seconds = Annotated[float, Field(ge=0, le=365 * DAY_S)]


class FaultRates(BaseModel):
    """How often what happens; days and seconds are simulated ones.

    `silent_share` of boxes are not heard of any more from some moment within `silent_within_s`.
    `slow_share` of boxes have a link slower by `slow_factor`. `corrupt_share` of downloads get
    wrong bytes from their source. `duplicate_share` and `late_share` of messages, each way, come
    twice or after the next one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    power_cuts_per_day: PerDay = 0.0
    outage_s: Seconds = 60.0
    clock_jumps_per_day: PerDay = 0.0
    clock_jump_s: Seconds = 7 * DAY_S
    link_drops_per_day: PerDay = 0.0
    full_disks_per_day: PerDay = 0.0
    full_disk_s: Seconds = 1800.0
    silent_share: Share = 0.0
    silent_within_s: Seconds = 3600.0
    slow_share: Share = 0.0
    slow_factor: float = Field(default=20.0, ge=1, le=10_000)
    corrupt_share: Share = 0.0
    duplicate_share: Share = 0.0
    late_share: Share = 0.0


NO_FAULTS = FaultRates()
EVERYTHING = FaultRates(
    power_cuts_per_day=12,
    clock_jumps_per_day=12,
    link_drops_per_day=24,
    full_disks_per_day=6,
    silent_share=0.01,
    slow_share=0.05,
    corrupt_share=0.05,
    duplicate_share=0.02,
    late_share=0.02,
)
"""Some of everything, at rates no real fleet survives for long."""


class Fault(enum.StrEnum):
    """Something that happens at a moment."""

    POWER_CUT = "power_cut"
    CLOCK_JUMP = "clock_jump"
    LINK_DROP = "link_drop"
    FULL_DISK = "full_disk"


class Schedule:
    """The faults of one box from `start_s` on; `slow` divides the speed of its link."""

    def __init__(self, rates: FaultRates, rng: random.Random, start_s: float) -> None:
        self._rng = rng
        self._per_s = {
            Fault.POWER_CUT: rates.power_cuts_per_day / DAY_S,
            Fault.CLOCK_JUMP: rates.clock_jumps_per_day / DAY_S,
            Fault.LINK_DROP: rates.link_drops_per_day / DAY_S,
            Fault.FULL_DISK: rates.full_disks_per_day / DAY_S,
        }
        self.slow = rates.slow_factor if rng.random() < rates.slow_share else 1.0
        silent = rng.random() < rates.silent_share
        when_s = start_s + rng.random() * rates.silent_within_s
        self.silent_from_s = when_s if silent else None
        self._due = {
            fault: start_s + rng.expovariate(per_s)
            for fault, per_s in self._per_s.items()
            if per_s > 0
        }

    @property
    def next_s(self) -> float | None:
        """When the next fault is due; None: never."""
        return min(self._due.values(), default=None)

    def take(self, now_s: float) -> list[Fault]:
        """The faults that are due, in order; each kind at most once a call."""
        found = sorted(
            (fault for fault, at_s in self._due.items() if at_s <= now_s),
            key=lambda fault: self._due[fault],
        )
        for fault in found:
            self._due[fault] = now_s + self._rng.expovariate(self._per_s[fault])
        return found

    def is_silent(self, now_s: float) -> bool:
        """Whether this box is not heard of any more."""
        return self.silent_from_s is not None and now_s >= self.silent_from_s
