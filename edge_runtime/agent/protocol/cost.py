"""What a box spent since the row before, and how full its budgets are.

Rules
- Lines add up: over rows, boxes and labels. A number may be negative: a task's last attempt or
  verdict changed, or a bill came that was lower than the worst case it was booked at.
- Money is nano-units of `currency`, energy microjoules. Idle energy is a line of its own tier.
- There are at most `MAX_LINES` lines; what does not fit, or whose names could carry text, is
  summed up under `OTHER`, tier by tier.
- Budgets are the state of now, not increments: the newest row counts.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from edge_runtime.agent.protocol.document import MAX_COUNT, Count, Part

MAX_LINES: Final = 64
MAX_BUDGETS: Final = 64
OTHER: Final = "(other)"

_Change = Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)]
CostName = Annotated[str, Field(pattern=r"^(\(other\)|[A-Za-z0-9._:/@+{}-]{0,96})$")]
"""An endpoint, an owner or a budget's scope."""
CostTier = Literal["cache", "local", "frontier", "idle"]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class CostLine(Part):
    """Sums of one endpoint, owner (the tenant of the API key) and tier."""

    endpoint: CostName
    owner: CostName
    tier: CostTier
    requests: _Change = 0
    answered: _Change = 0
    tasks: _Change = 0
    resolved: _Change = 0
    tokens_in: _Change = 0
    tokens_cached: _Change = 0
    tokens_out: _Change = 0
    frontier_nano: _Change = 0
    energy_nano: _Change = 0
    hardware_nano: _Change = 0
    saved_nano: _Change = 0
    energy_uj: _Change = 0


class BudgetState(Part):
    """One limit in its current window (`2026-11-22` or `2026-11`, UTC)."""

    scope: CostName
    period: Literal["day", "month"]
    window: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}(-[0-9]{2})?$")]
    limit_nano: Count
    spent_nano: Count
    held_nano: Count


class CostReport(Part):
    """What was booked in a row's stretch, and the budgets at its end."""

    currency: Currency
    lines: tuple[CostLine, ...] = Field(default=(), max_length=MAX_LINES)
    budgets: tuple[BudgetState, ...] = Field(default=(), max_length=MAX_BUDGETS)


COST_SUMS: Final = tuple(
    name for name in CostLine.model_fields if name not in ("endpoint", "owner", "tier")
)
"""The numbers of a line."""
