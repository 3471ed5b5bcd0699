"""What guards rest on: facts about boxes in the order in which they became known.

Rules
- Rows are only ever added, with a number that rises within a rollout. A verdict names the last
  row it saw, so it can be reached again from the same rows, or another rule tried on them.
- A row holds what was measured, not what a guard made of it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.rollout.signals import Figures


class Sort(enum.StrEnum):
    """What a row says."""

    EXPOSED = "exposed"  # the box began with the change; data: stratum
    EVENT = "event"  # something happened to an exposed box; data: event, detail
    PAIR = "pair"  # figures of a box and its partner, before and after; data: see `Pair`
    UNPAIRED = "unpaired"  # a pair that cannot be compared; data: partner, reason


@dataclass(frozen=True, slots=True)
class Evidence:
    """One row. `seq` is 0 until it is stored."""

    sort: Sort
    box: str
    wave: int
    at_s: float
    data: Mapping[str, Any] = field(default_factory=dict)
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """The four windows of a changed box and its partner."""

    partner: str
    changed_before: Figures
    changed_after: Figures
    control_before: Figures
    control_after: Figures

    def data(self) -> dict[str, Any]:
        """As a row's data."""
        return {
            "partner": self.partner,
            "changed": [dict(self.changed_before), dict(self.changed_after)],
            "control": [dict(self.control_before), dict(self.control_after)],
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Pair:
        """From a row's data."""
        return cls(str(data["partner"]), *data["changed"], *data["control"])
