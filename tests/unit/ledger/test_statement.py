"""What a frontier says of its calls, as it says it: JSON and CSV, money and tokens."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.reconcile import Call, match
from edge_runtime.ledger.rows import MoneySource, Tokens
from edge_runtime.ledger.statement import (
    StatementError,
    StatementLine,
    correction_of,
    read_statement,
    told_of_call,
)

PRICE = FrontierPrice(2_500_000, 250_000, 10_000_000)


@given(st.integers(0, 10**15))
def test_no_nano_is_lost_on_the_way_through_json(nano: int) -> None:
    said = f'{{"data": {{"id": "gen-1", "total_cost": {Decimal(nano) / 10**9}}}}}'
    assert told_of_call(said.encode()).nano == nano


def test_the_frontiers_own_tokenizer_is_what_counts() -> None:
    said = b"""{"data": {"id": "gen-1", "tokens_prompt": 9, "tokens_completion": 9,
        "native_tokens_prompt": 12, "native_tokens_cached": 2, "native_tokens_completion": 3}}"""
    line = told_of_call(said)
    assert (line.ids, line.nano, line.tokens) == (("gen-1",), None, Tokens(12, 2, 3))
    found = correction_of(line, "call", 1, PRICE)
    assert (found.frontier_nano, found.money_source) == (25_000 + 500 + 30_000, MoneySource.USAGE)


def test_columns_are_known_by_several_names_and_by_any_when_told() -> None:
    text = "X-Client-Request-Id,Price,Prompt Tokens\nours-1,$0.25,\n"
    (line,) = read_statement(text, renamed={"Price": "cost"})
    assert (line.ids, line.nano) == (("ours-1",), 250_000_000)
    (line,) = read_statement('{"entries": [{"id": "a", "usage": {"prompt_tokens": 3,'
                             '"completion_tokens": 4}}], "more": 1}')  # fmt: skip
    assert line.tokens == Tokens(3, 0, 4)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id,cost\nx,cheap\n", "entry 1: x: cost is 'cheap'"),
        ("id,note\nx,hello\n", "neither money"),
        ("name,cost\nx,1\n", "names no call"),
        ('[{"id": "x", "cost": -1}]', "not an amount"),
        ('[{"id": "x", "prompt_tokens": 1.5, "completion_tokens": 2}]', "not a number of tokens"),
        ('{"a": [], "b": []}', "holds one list"),
        ("[1]", "one object a call"),
        ("{", "no JSON"),
    ],
)
def test_what_makes_no_sense_is_never_zero(text: str, why: str) -> None:
    with pytest.raises(StatementError, match=why):
        read_statement(text)


def test_tokens_without_a_price_are_an_error() -> None:
    line = StatementLine(("x",), None, Tokens(1))
    with pytest.raises(StatementError, match="name the price list"):
        correction_of(line, "call", 1, None)


def test_every_line_and_every_guess_is_accounted_for() -> None:
    calls = [
        Call("a", "gen-a", "big", 100, open=False),
        Call("b", "gen-b", "big", 100, open=False),
        Call("c", "", "big", 999, open=True),
        Call("d", "gen-d", "big", 999, open=True),
        Call("e", "gen-e", "big", 999, open=True),
        Call("f", "", "other", 999, open=True),
    ]
    lines = [
        StatementLine(("gen-a",), 100, None),
        StatementLine(("gen-b", "b"), 90, None),
        StatementLine(("c",), 50, None),
        StatementLine(("gen-d",), 50, None),
        StatementLine(("d",), 50, None),
        StatementLine(("f",), None, Tokens(1)),
        StatementLine(("nobody",), 7, None),
    ]
    found = match(calls, lines, lambda model: PRICE if model == "big" else None)
    assert found.agreed == 1
    assert [(call.call_id, nano) for call, nano in found.differing] == [("b", 90)]
    assert [call.call_id for call, _ in found.settle] == ["c"]  # d was named twice
    assert [call.call_id for call in found.twice] == ["d"]
    assert [call.call_id for call in found.unpriced] == ["f"]
    assert [line.ids for line in found.unknown] == [("nobody",)]
    assert [call.call_id for call in found.missing] == ["e"]
    assert not found.clean
