"""What a while cost, by request and by resolved task, and what it saved. Pure.

Rules
- Everything spent counts: failed attempts, audits, shadows and idle energy too.
- A task is counted, and its resolution credited, where its last attempt to serve lies.
- Savings compare with sending every request to one frontier model: an answer kept here is priced
  there with the tokens it had here, one that came from the frontier at what it cost. Tokens that
  were reused here count as cached there too, which understates the savings.
- The interval treats tasks as independent draws (delta method for a ratio). Sums of old rows
  have no tasks left in them; they are outside the interval, which says how many tasks are in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from fractions import Fraction
from statistics import NormalDist
from typing import Self

from edge_runtime.ledger.cost import cost_per_resolved
from edge_runtime.ledger.money import divide_half_even, nano_from_pico
from edge_runtime.ledger.prices import FrontierPrice

FEWEST_TASKS = 30  # below, the normal approximation is not worth printing


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Sums of one group of attempts. Money in nano-units, energy in microjoules."""

    attempts: int = 0
    requests: int = 0
    answered: int = 0
    tasks: int = 0
    resolved: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    frontier_nano: int = 0
    energy_nano: int = 0
    hardware_nano: int = 0
    saved_nano: int = 0
    energy_uj: int = 0
    duration_us: int = 0
    tokens_trimmed: int = 0  # cut from prompts before they were sent, by estimate
    kept_in: int = 0  # of answers that did not come from the frontier
    kept_cached: int = 0
    kept_out: int = 0
    answered_frontier_nano: int = 0
    from_cache: int = 0
    from_local: int = 0
    from_frontier: int = 0
    counter_uj: int = 0
    model_uj: int = 0
    assumption_uj: int = 0
    idle_uj: int = 0
    idle_nano: int = 0
    unsettled_nano: int = 0  # booked at a worst case nobody confirmed

    def __add__(self, other: Self) -> Self:
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in NAMES})

    @property
    def cost_nano(self) -> int:
        """Everything spent."""
        return self.frontier_nano + self.energy_nano + self.hardware_nano

    @property
    def work_energy_nano(self) -> int:
        """Energy that requests caused: all but the idle part."""
        return self.energy_nano - self.idle_nano

    @property
    def per_request_nano(self) -> int | None:
        """Everything spent / requests."""
        return divide_half_even(self.cost_nano, self.requests) if self.requests else None

    @property
    def per_resolved_nano(self) -> int | None:
        """Everything spent / tasks resolved."""
        return cost_per_resolved(self.cost_nano, self.resolved)

    def all_frontier_nano(self, price: FrontierPrice) -> int:
        """What the same answers would have cost from one frontier model."""
        kept = priced(self.kept_in, self.kept_cached, self.kept_out, price)
        return self.answered_frontier_nano + kept


NAMES = tuple(one.name for one in fields(Line))


def priced(tokens_in: int, tokens_cached: int, tokens_out: int, price: FrontierPrice) -> int:
    """Nano-units for sums of tokens."""
    return nano_from_pico(
        (tokens_in - tokens_cached) * price.input_pico
        + tokens_cached * price.cached_input_pico
        + tokens_out * price.output_pico
    )


@dataclass(frozen=True, slots=True)
class Savings:
    """Savings as a share of the all-frontier cost, with an interval where there are enough tasks.

    `low` and `high` are None when fewer than 30 tasks have details.
    """

    actual_nano: int
    all_frontier_nano: int
    tasks: int
    low: float | None
    high: float | None
    confidence: float

    @property
    def saved_nano(self) -> int:
        """Negative when the box costs more than the frontier would."""
        return self.all_frontier_nano - self.actual_nano

    @property
    def share(self) -> float | None:
        """1 - actual / all-frontier; None when the latter is 0."""
        return self.saved_nano / self.all_frontier_nano if self.all_frontier_nano else None


@dataclass(slots=True)
class RatioMoments:
    """Running sums for the ratio of two totals over independent pairs; integers, so exact."""

    count: int = 0
    top: int = 0
    bottom: int = 0
    top_top: int = 0
    top_bottom: int = 0
    bottom_bottom: int = 0

    def add(self, top: int, bottom: int) -> None:
        """One more pair."""
        self.count += 1
        self.top += top
        self.bottom += bottom
        self.top_top += top * top
        self.top_bottom += top * bottom
        self.bottom_bottom += bottom * bottom

    def standard_error(self) -> float | None:
        """Of `top / bottom` by the delta method; None with fewer than two pairs or bottom 0.

        var(r) = n / (n - 1) * sum((top_i - r bottom_i)**2) / bottom**2
        """
        if self.count < 2 or not self.bottom:
            return None
        # The sum of squares times bottom**2: as floats its terms would cancel each other out.
        squares = (
            self.top_top * self.bottom**2
            - 2 * self.top * self.bottom * self.top_bottom
            + self.top**2 * self.bottom_bottom
        )
        variance = Fraction(squares * self.count, (self.count - 1) * self.bottom**4)
        return math.sqrt(variance)


def savings(
    pairs: Iterable[tuple[int, int]],
    *,
    actual_nano: int,
    all_frontier_nano: int,
    confidence: float = 0.95,
) -> Savings:
    """Savings of the whole, with an interval from the tasks that have details.

    `pairs` are (actual, all-frontier) nano-units of each task. Money that belongs to no task,
    such as idle energy, is in `actual_nano` and moves the interval as a fixed cost.
    """
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence is {confidence}; give one from 0.5 to below 1")
    moments = RatioMoments()
    for actual, instead in pairs:
        moments.add(actual, instead)
    error = moments.standard_error()
    low = high = None
    if error is not None and moments.count >= FEWEST_TASKS and all_frontier_nano:
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        centre = 1 - actual_nano / all_frontier_nano
        low, high = centre - z * error, centre + z * error
    return Savings(actual_nano, all_frontier_nano, moments.count, low, high, confidence)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Our numbers beside the frontier's own for one model, as (ours, theirs)."""

    model: str
    tokens_in: tuple[int, int]
    tokens_cached: tuple[int, int]
    tokens_out: tuple[int, int]
    cost_nano: tuple[int, int]

    @property
    def agrees(self) -> bool:
        """True when tokens are equal and the money to the cent (less than half of one apart)."""
        tokens = (self.tokens_in, self.tokens_cached, self.tokens_out)
        ours, theirs = self.cost_nano
        return all(one == two for one, two in tokens) and abs(ours - theirs) * 2 < 10**7


def reconcile(
    model: str, ours: Line, theirs: tuple[int, int, int], price: FrontierPrice
) -> Reconciliation:
    """Hold the ledger's sums against the frontier's (prompt, cached, completion) tokens."""
    tokens_in, tokens_cached, tokens_out = theirs
    return Reconciliation(
        model,
        (ours.tokens_in, tokens_in),
        (ours.tokens_cached, tokens_cached),
        (ours.tokens_out, tokens_out),
        (ours.frontier_nano, priced(tokens_in, tokens_cached, tokens_out, price)),
    )
