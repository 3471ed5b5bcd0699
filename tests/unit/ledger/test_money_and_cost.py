"""Money is exact: rounding, prices, what a call costs."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ledger.cost import (
    cost_per_resolved,
    energy_cost,
    frontier_cost,
    local_cost,
    request_cost,
    worst_case_cost,
)
from edge_runtime.ledger.money import (
    NANO,
    cents,
    divide_half_even,
    format_money,
    nano_from_decimal,
)
from edge_runtime.ledger.prices import FrontierPrice, LocalPrice
from edge_runtime.ledger.rows import Attempt, MoneySource, Tier, Tokens, tokens_from_usage

PRICE = FrontierPrice(input_pico=2_500_000, cached_input_pico=1_250_000, output_pico=10_000_000)
counts = st.integers(0, 10**7)


@given(st.integers(-(10**15), 10**15), st.integers(1, 10**9))
def test_division_rounds_like_a_banker(numerator: int, denominator: int) -> None:
    assert divide_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@pytest.mark.parametrize(
    ("nano", "shown"),
    [
        (0, "0.0000 USD"),
        (1_234_567_890_123, "1,234.5679 USD"),
        (1, "<0.0001 USD"),
        (-1, ">-0.0001 USD"),
        (-2 * NANO, "-2.0000 USD"),
    ],
)
def test_money_is_shown_for_people(nano: int, shown: str) -> None:
    assert format_money(nano, "USD") == shown


@pytest.mark.parametrize("bad", ["-1", "NaN", "Infinity", "1e10"])
def test_an_amount_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"money|too large"):
        nano_from_decimal(Decimal(bad))


@given(fresh=counts, cached=counts, out=counts)
def test_a_call_costs_its_tokens_at_their_prices(fresh: int, cached: int, out: int) -> None:
    tokens = Tokens(fresh + cached, cached, out)
    exact = Fraction(fresh * 5, 2) + Fraction(cached * 5, 4) + 10 * out  # units a million
    assert frontier_cost(tokens, PRICE) == exact * NANO / 10**6


@given(
    calls=st.lists(st.tuples(counts, counts), max_size=40),
    price=st.integers(0, 10**7),
)
def test_the_sum_is_within_half_a_nano_a_call_of_the_bill(
    calls: list[tuple[int, int]], price: int
) -> None:
    finest = FrontierPrice(price, price, price)
    total = sum(frontier_cost(Tokens(a, 0, b), finest) for a, b in calls)
    exact = Fraction(sum((a + b) * price for a, b in calls), 1000)
    assert abs(total - exact) <= Fraction(len(calls), 2)


@given(
    prompt=counts,
    cached_share=st.floats(0, 1),
    limit=counts,
    out_share=st.floats(0, 1),
    price=st.tuples(*[st.integers(0, 10**8)] * 3),
)
def test_no_call_costs_more_than_its_worst_case(
    prompt: int, cached_share: float, limit: int, out_share: float, price: tuple[int, int, int]
) -> None:
    tokens = Tokens(prompt, int(prompt * cached_share), int(limit * out_share))
    at = FrontierPrice(*price)
    assert frontier_cost(tokens, at) <= worst_case_cost(prompt, limit, at)


def test_energy_and_hardware_cost_what_the_list_says() -> None:
    price = LocalPrice(tariff_nano_per_kwh=NANO * 3 // 10, hardware_pico_per_busy_s=9_513_000)
    assert energy_cost(3_600_000 * 10**6, price) == NANO * 3 // 10
    cost = local_cost(36 * 10**6, 2_000_000, price)
    assert cost.energy_nano == 3000
    assert cost.hardware_nano == 19_026


def test_a_request_costs_all_its_attempts() -> None:
    local = Attempt(
        at_us=1, request_id="r", task_id="t", tier=Tier.LOCAL, model="m", hardware_nano=5
    )
    frontier = Attempt(
        at_us=2,
        request_id="r",
        task_id="t",
        tier=Tier.FRONTIER,
        model="big",
        frontier_nano=70,
        money_source=MoneySource.USAGE,
    )
    assert request_cost([local, frontier]) == 75
    assert cost_per_resolved(75, 2) == 38
    assert cost_per_resolved(75, 0) is None


def test_usage_counts_cached_tokens_inside_the_prompt() -> None:
    usage = {
        "prompt_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 60},
        "completion_tokens": 7,
    }
    assert tokens_from_usage(usage) == Tokens(100, 60, 7)
    assert tokens_from_usage({"prompt_tokens": 1, "completion_tokens": 2}) == Tokens(1, 0, 2)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": 1},
        {"prompt_tokens": "1", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    ],
)
def test_a_bill_is_never_guessed(usage: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="tokens"):
        tokens_from_usage(usage)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens_in": -1},
        {"frontier_nano": 2**63, "money_source": MoneySource.USAGE},
        {"endpoint": "x" * 201},
        {"tokens_in": 1, "tokens_cached": 2},
        {"energy_uj": 1},
        {"frontier_nano": 1},
        {"purpose": "audit", "answered": True},
    ],
)
def test_an_attempt_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    fine = {"at_us": 1, "request_id": "r", "task_id": "t", "tier": Tier.LOCAL, "model": "m"}
    with pytest.raises(ValueError, match=r"\w+"):
        Attempt(**{**fine, **change})  # type: ignore[arg-type]


def test_cents_round_once() -> None:
    assert [cents(nano) for nano in (4_999_999, 5_000_000, 15_000_000, 15_000_001)] == [0, 0, 2, 2]
