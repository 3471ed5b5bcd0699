"""Which frontier is asked first, and which failure is told."""

from __future__ import annotations

import pytest

from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.router.contract import FrontierWhy
from edge_runtime.router.frontier.ordering import Choice, Failure, arranged, summed_up

LONG_PROMPTS = FrontierPrice(1_000_000, 100_000, 20_000_000)  # cheap to ask, dear to answer
LONG_ANSWERS = FrontierPrice(4_000_000, 400_000, 5_000_000)


def test_the_operators_order_comes_first_then_the_cheapest() -> None:
    choices = [
        Choice("dear", FrontierPrice(9, 9, 9)),
        Choice("cheap", FrontierPrice(1, 1, 1)),
        Choice("second", FrontierPrice(99, 99, 99), order=2),
        Choice("first", FrontierPrice(99, 99, 99), order=0),
    ]
    assert arranged(choices) == ("first", "second", "cheap", "dear")
    assert arranged(reversed(choices)) == ("first", "second", "cheap", "dear")
    assert arranged([]) == ()


def test_the_cheapest_depends_on_what_is_asked() -> None:
    choices = [Choice("a", LONG_PROMPTS), Choice("b", LONG_ANSWERS)]
    assert arranged(choices, prompt_tokens=100_000, output_tokens=10) == ("a", "b")
    assert arranged(choices, prompt_tokens=10, output_tokens=4000) == ("b", "a")


def test_equal_prices_are_ordered_by_name() -> None:
    one = FrontierPrice(1, 1, 1)
    assert arranged([Choice("b", one), Choice("a", one)]) == ("a", "b")


@pytest.mark.parametrize(
    ("whys", "told"),
    [
        ([FrontierWhy.UNREACHABLE, FrontierWhy.REFUSED], FrontierWhy.REFUSED),
        ([FrontierWhy.BUDGET, FrontierWhy.UNREACHABLE], FrontierWhy.BUDGET),
        ([FrontierWhy.BREAKER_OPEN, FrontierWhy.TIMEOUT], FrontierWhy.TIMEOUT),
        ([FrontierWhy.BREAKER_OPEN, FrontierWhy.BREAKER_OPEN], FrontierWhy.BREAKER_OPEN),
        ([FrontierWhy.RATE_LIMITED, FrontierWhy.BAD_REQUEST], FrontierWhy.BAD_REQUEST),
    ],
)
def test_what_tells_most_is_told(whys: list[FrontierWhy], told: FrontierWhy) -> None:
    failures = [Failure(f"f{index}", why, "no") for index, why in enumerate(whys)]
    found = summed_up(failures)
    assert found.why is told
    assert "f0 no" in found.message
    assert "f1 no" in found.message


def test_the_soonest_wait_of_the_last_failures_is_told() -> None:
    found = summed_up(
        [
            Failure("a", FrontierWhy.RATE_LIMITED, "first", 1.0),
            Failure("a", FrontierWhy.RATE_LIMITED, "then", 9.0),
            Failure("b", FrontierWhy.BUDGET, "no money", 30.0),
            Failure("c", FrontierWhy.UNREACHABLE, "down"),
        ]
    )
    assert found.retry_after_s == 9.0
    assert "first" not in found.message


def test_nobody_to_ask_says_what_to_do() -> None:
    found = summed_up([])
    assert found.why is FrontierWhy.NONE_CONFIGURED
    assert "[frontiers]" in found.message


def test_every_reason_has_a_weight() -> None:
    for why in FrontierWhy:
        assert summed_up([Failure("a", why, "")]).why is why
