"""What an attempt costs. Pure.

request cost = sum over attempts of
    (fresh input x price + cached input x cached price + output x price)   the frontier's part
  + joules x tariff                                                        energy
  + busy seconds x hardware price a busy second                            hardware
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.ledger.money import divide_half_even, nano_from_pico
from edge_runtime.ledger.prices import FrontierPrice, LocalPrice
from edge_runtime.ledger.rows import Attempt, Tokens

UJ_PER_KWH = 3_600_000 * 10**6


@dataclass(frozen=True, slots=True)
class LocalCost:
    """The box's own part of an attempt's cost, in nano-units."""

    energy_nano: int
    hardware_nano: int


def frontier_cost(tokens: Tokens, price: FrontierPrice) -> int:
    """Nano-units the frontier charges for one call; rounded once, half to even."""
    fresh = tokens.tokens_in - tokens.tokens_cached
    return nano_from_pico(
        fresh * price.input_pico
        + tokens.tokens_cached * price.cached_input_pico
        + tokens.tokens_out * price.output_pico
    )


def worst_case_cost(prompt_tokens: int, max_output_tokens: int, price: FrontierPrice) -> int:
    """The most one call may cost: nothing cached, the longest answer. Rounded up.

    A caller that sends a call more than once reserves anew for each try. `prompt_tokens` must
    be an upper bound by the frontier's own tokenizer; the prompt's UTF-8 bytes plus the
    template's tokens are one for every byte-level tokenizer.
    """
    dearest = max(price.input_pico, price.cached_input_pico)
    pico = prompt_tokens * dearest + max_output_tokens * price.output_pico
    return -(-pico // 1000)


def local_cost(energy_uj: int, busy_us: int, price: LocalPrice) -> LocalCost:
    """Energy and amortised hardware of `busy_us` of this box."""
    return LocalCost(
        energy_nano=energy_cost(energy_uj, price),
        hardware_nano=divide_half_even(busy_us * price.hardware_pico_per_busy_s, 10**9),
    )


def energy_cost(energy_uj: int, price: LocalPrice) -> int:
    """Nano-units for microjoules at the tariff."""
    return divide_half_even(energy_uj * price.tariff_nano_per_kwh, UJ_PER_KWH)


def request_cost(attempts: Iterable[Attempt]) -> int:
    """Nano-units of all attempts of a request, those that failed included."""
    return sum(one.cost_nano for one in attempts)


def cost_per_resolved(total_nano: int, resolved: int) -> int | None:
    """Everything spent / tasks resolved; None while no task is."""
    return divide_half_even(total_nano, resolved) if resolved else None
