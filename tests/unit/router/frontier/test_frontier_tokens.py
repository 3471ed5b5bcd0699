"""Bounds and estimates of tokens, and what a try is booked at."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ledger.cost import frontier_cost, worst_case_cost
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.rows import MoneySource, Tokens
from edge_runtime.router.frontier.memory import usage
from edge_runtime.router.frontier.money import Facts, bill
from edge_runtime.router.frontier.tokens import (
    TokenRate,
    choices_of,
    prompt_bound,
    prompt_bytes,
    usage_tokens,
)
from edge_runtime.router.frontier.verdict import Billed

PRICE = FrontierPrice(2_500_000, 250_000, 10_000_000)


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], **more}


@given(st.lists(st.text(max_size=200), max_size=5))
def test_the_bound_counts_every_byte_and_every_message(texts: list[str]) -> None:
    bound = prompt_bound(chat(*texts), template_tokens=7)
    assert bound >= sum(len(text.encode()) for text in texts) + 7


def test_what_becomes_prompt_is_counted_and_nothing_else() -> None:
    plain = prompt_bytes(chat("hello"))
    assert prompt_bytes(chat("hello", temperature=0.5, user="x" * 999, stream=True)) == plain
    tools = [{"type": "function", "function": {"name": "search"}}]
    assert prompt_bytes(chat("hello", tools=tools)) > plain + 40
    assert prompt_bytes(chat("hello", response_format={"type": "json_object"})) > plain
    assert prompt_bytes(chat("hello", tools=None)) == plain
    assert prompt_bytes({}) == 0


@pytest.mark.parametrize(
    ("n", "choices"), [(None, 1), (1, 1), (4, 4), (0, 1), (-2, 1), (True, 1), ("9", 1)]
)
def test_every_choice_may_be_as_long_as_allowed(n: object, choices: int) -> None:
    assert choices_of({} if n is None else {"n": n}) == choices


def test_the_rate_follows_the_bills() -> None:
    rate = TokenRate().learned(1000, 250)
    assert rate.tokens_per_byte == 0.25  # the first bill replaces the guess
    for _ in range(200):
        rate = rate.learned(1000, 500)
    assert rate.tokens_per_byte == pytest.approx(0.5, abs=0.001)
    assert rate.tokens(1000) == 500
    assert rate.learned(0, 99) == rate
    assert TokenRate().learned(10, 10_000_000).tokens_per_byte <= 1.0
    assert (rate.tokens(0), rate.tokens(-5), rate.tokens(1)) == (0, 0, 1)


def test_a_bill_of_a_thousand_million_tokens_is_a_mistake() -> None:
    assert usage_tokens(usage(10**9, 0, 10**9)) == Tokens(10**9, 0, 10**9)
    for tokens_in, tokens_out in ((10**9 + 1, 0), (1, 10**12)):
        with pytest.raises(ValueError, match="more than"):
            usage_tokens(usage(tokens_in, 0, tokens_out))
    assert usage_tokens(None) is None


def facts(**known: Any) -> Facts:
    return Facts(
        **{"prompt_bytes": 400, "prompt_tokens": 500, "output_tokens": 60, "sent": True, **known}
    )


@pytest.mark.parametrize(
    ("known", "billed", "tokens", "source"),
    [
        ({"usage": Tokens(90, 10, 5)}, Billed.PERHAPS, Tokens(90, 10, 5), MoneySource.USAGE),
        ({"usage": Tokens(90, 10, 5)}, Billed.NO, Tokens(90, 10, 5), MoneySource.USAGE),
        ({"sent": False}, Billed.PERHAPS, Tokens(0), MoneySource.NONE),
        ({}, Billed.NO, Tokens(0), MoneySource.NONE),
        ({}, Billed.PERHAPS, Tokens(500, 0, 60), MoneySource.WORST_CASE),
        ({"began": True}, Billed.PERHAPS, Tokens(100, 0, 0), MoneySource.ESTIMATE),
        (
            {"began": True, "output_bytes": 40},
            Billed.PERHAPS,
            Tokens(100, 0, 10),
            MoneySource.ESTIMATE,
        ),
        (
            {"began": True, "output_bytes": 4, "output_events": 8},
            Billed.PERHAPS,
            Tokens(100, 0, 8),
            MoneySource.ESTIMATE,
        ),
        (
            {"began": True, "output_bytes": 10**6, "prompt_bytes": 10**6},
            Billed.PERHAPS,
            Tokens(500, 0, 60),
            MoneySource.ESTIMATE,
        ),
    ],
)
def test_usage_then_estimate_then_worst_case(
    known: dict[str, Any], billed: Billed, tokens: Tokens, source: MoneySource
) -> None:
    found = bill(facts(**known), billed, PRICE, TokenRate(0.25, 10))
    assert (found.tokens, found.source) == (tokens, source)
    assert found.nano == frontier_cost(tokens, PRICE)


@given(
    st.builds(
        Facts,
        prompt_bytes=st.integers(0, 10**6),
        prompt_tokens=st.integers(0, 10**6),
        output_tokens=st.integers(0, 10**6),
        sent=st.booleans(),
        began=st.booleans(),
        output_bytes=st.integers(0, 10**7),
        output_events=st.integers(0, 10**6),
    ),
    st.sampled_from(Billed),
    st.builds(FrontierPrice, *[st.integers(0, 10**8)] * 3),
)
def test_without_a_bill_nothing_costs_more_than_was_held(
    known: Facts, billed: Billed, price: FrontierPrice
) -> None:
    worst = worst_case_cost(known.prompt_tokens, known.output_tokens, price)
    assert 0 <= bill(known, billed, price, TokenRate()).nano <= worst
