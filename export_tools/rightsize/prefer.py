"""What the chosen candidate has the least of."""

from __future__ import annotations

import enum


class Prefer(enum.StrEnum):
    """What should be small."""

    SIZE = "size"
    MEMORY = "memory"
    TIME = "time"
