"""Which frontier is asked first, and which of several failures the caller is told. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.ledger.cost import worst_case_cost
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.router.contract import FrontierWhy

TYPICAL_PROMPT_TOKENS = 1000
TYPICAL_OUTPUT_TOKENS = 250


@dataclass(frozen=True, slots=True)
class Choice:
    """A frontier as the order sees it; `order` is the operator's place for it, if any."""

    name: str
    price: FrontierPrice
    order: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one frontier gave no answer; `asked` when it was sent anything."""

    frontier: str
    why: FrontierWhy
    message: str
    retry_after_s: float | None = None
    asked: bool = True


def arranged(
    choices: Iterable[Choice],
    prompt_tokens: int = TYPICAL_PROMPT_TOKENS,
    output_tokens: int = TYPICAL_OUTPUT_TOKENS,
) -> tuple[str, ...]:
    """Names in the order of asking: by `order`, then cheapest worst case, then by name."""

    def place(one: Choice) -> tuple[bool, int, int, str]:
        worst = worst_case_cost(prompt_tokens, output_tokens, one.price)
        return (one.order is None, one.order or 0, worst, one.name)

    return tuple(one.name for one in sorted(choices, key=place))


# What tells most comes last: an answer that was no good says more than a line that is down.
_WEIGHT: Mapping[FrontierWhy, int] = {
    why: weight
    for weight, why in enumerate(
        (
            FrontierWhy.NONE_CONFIGURED,
            FrontierWhy.BREAKER_OPEN,
            FrontierWhy.UNREACHABLE,
            FrontierWhy.TIMEOUT,
            FrontierWhy.RATE_LIMITED,
            FrontierWhy.OUT_OF_CREDIT,
            FrontierWhy.BUDGET,
            FrontierWhy.REFUSED,
            FrontierWhy.BAD_REQUEST,
            FrontierWhy.CUT,
        )
    )
}


def summed_up(failures: Sequence[Failure]) -> Failure:
    """The one to tell; its message names all, its `retry_after_s` is the soonest known."""
    if not failures:
        message = "no frontier is configured for this request; add one under [frontiers]"
        return Failure("", FrontierWhy.NONE_CONFIGURED, message, asked=False)
    worst = max(failures, key=lambda one: _WEIGHT[one.why])
    last = {one.frontier: one for one in failures}
    waits = [one.retry_after_s for one in last.values() if one.retry_after_s is not None]
    message = "; ".join(f"{name} {one.message}" for name, one in last.items())
    return Failure(worst.frontier, worst.why, message, min(waits, default=None))
