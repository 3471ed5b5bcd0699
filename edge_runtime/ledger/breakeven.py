"""When does a box of one's own pay? Pure.

break-even requests a month
    = (hardware a month + idle energy + operations) / (f_local x frontier cost - local cost)

where f_local is the share of requests answered here, "frontier cost" what one request costs
there, and "local cost" the energy one request adds here (each request is tried here first).
Amortised hardware is a fixed cost above, so it is not in the local cost again.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.ledger.cost import energy_cost
from edge_runtime.ledger.prices import HOURS_PER_MONTH, LocalPrice


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Money in nano-units, a month or a request. `requests` None: no volume ever pays."""

    fixed_nano: int
    hardware_nano: int
    idle_nano: int
    operations_nano: int
    local_share: float
    frontier_nano: float
    local_nano: float
    requests: float | None

    @property
    def gain_nano(self) -> float:
        """What a request saves, before fixed costs."""
        return self.local_share * self.frontier_nano - self.local_nano


def break_even(
    price: LocalPrice, *, local_share: float, frontier_nano: float, local_nano: float
) -> BreakEven:
    """See the module's formula. Raises `ValueError` for a share outside 0..1 or negative costs."""
    if not 0 <= local_share <= 1:
        raise ValueError(f"the share answered here is {local_share}; it must be from 0 to 1")
    if frontier_nano < 0 or local_nano < 0:
        raise ValueError("a request cannot cost less than nothing")
    # Milliwatts times hours of a month, as microjoules.
    idle = energy_cost(price.idle_milliwatts * HOURS_PER_MONTH * 3600 * 1000, price)
    fixed = price.hardware_nano_per_month + idle + price.operations_nano_per_month
    gain = local_share * frontier_nano - local_nano
    return BreakEven(
        fixed,
        price.hardware_nano_per_month,
        idle,
        price.operations_nano_per_month,
        local_share,
        frontier_nano,
        local_nano,
        fixed / gain if gain > 0 else None,
    )
