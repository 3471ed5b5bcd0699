"""Savings, their interval, the break-even, and the bill held against the ledger."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import UsageError
from edge_runtime.ledger.breakeven import break_even
from edge_runtime.ledger.options import parse_since
from edge_runtime.ledger.prices import FrontierPrice, LocalPrice
from edge_runtime.ledger.report import NAMES, Line, RatioMoments, reconcile, savings
from edge_runtime.ledger.rows import US_PER_DAY, Outcome, verdict

PRICE = FrontierPrice(2_500_000, 1_250_000, 10_000_000)
lines = st.builds(Line, **{name: st.integers(0, 10**9) for name in NAMES})


@given(lines, lines, lines)
def test_lines_add_up_in_any_order(one: Line, two: Line, three: Line) -> None:
    assert (one + two) + three == three + (two + one)
    assert (one + two).cost_nano == one.cost_nano + two.cost_nano
    assert one + Line() == one


def test_money_is_divided_by_requests_or_by_resolved_tasks() -> None:
    line = Line(
        requests=4, resolved=3, frontier_nano=70, energy_nano=20, hardware_nano=10, idle_nano=5
    )
    assert (line.per_request_nano, line.per_resolved_nano) == (25, 33)
    assert line.work_energy_nano == 15
    assert (Line().per_request_nano, Line().per_resolved_nano) == (None, None)


def test_all_frontier_prices_what_was_kept_and_keeps_what_was_paid() -> None:
    line = Line(kept_in=1000, kept_cached=400, kept_out=100, answered_frontier_nano=9)
    assert line.all_frontier_nano(PRICE) == 600 * 2500 + 400 * 1250 + 100 * 10_000 + 9


def test_the_interval_needs_enough_tasks() -> None:
    few = savings([(1, 10), (2, 9)] * 10, actual_nano=30, all_frontier_nano=190)
    assert (few.tasks, few.low, few.high) == (20, None, None)
    assert few.share == pytest.approx(1 - 30 / 190)
    nothing = savings([], actual_nano=5, all_frontier_nano=0)
    assert (nothing.share, nothing.saved_nano) == (None, -5)
    with pytest.raises(ValueError, match="confidence"):
        savings([], actual_nano=1, all_frontier_nano=1, confidence=1.0)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(7)
    # Three in four tasks cost nothing here, the fourth what the frontier takes.
    truth, covered, runs = 0.75, 0, 400
    for _ in range(runs):
        pairs = []
        for _ in range(300):
            price = rng.randint(500, 1500)
            pairs.append((0 if rng.random() < truth else price, price))
        found = savings(
            pairs,
            actual_nano=sum(one for one, _ in pairs),
            all_frontier_nano=sum(two for _, two in pairs),
        )
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    # 95 % of 400 runs, less and more three standard errors.
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs) <= covered / runs <= 0.985


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**6)), min_size=2, max_size=50))
def test_the_running_sums_are_the_formula(pairs: list[tuple[int, int]]) -> None:
    moments = RatioMoments()
    for one, two in pairs:
        moments.add(one, two)
    top, bottom, count = sum(a for a, _ in pairs), sum(b for _, b in pairs), len(pairs)
    squares = sum((a - Fraction(top, bottom) * b) ** 2 for a, b in pairs)
    expected = math.sqrt(squares * count / (count - 1)) / bottom
    assert moments.standard_error() == pytest.approx(expected)


def test_one_task_has_no_spread() -> None:
    moments = RatioMoments()
    moments.add(1, 2)
    assert moments.standard_error() is None


def test_the_bill_agrees_to_the_cent_or_not_at_all() -> None:
    ours = Line(tokens_in=2000, tokens_cached=500, tokens_out=100, frontier_nano=5_375_000)
    same = reconcile("big", ours, (2000, 500, 100), PRICE)
    assert same.cost_nano == (5_375_000, 5_375_000)
    assert same.agrees
    assert not reconcile("big", ours, (2000, 500, 101), PRICE).agrees
    dearer = FrontierPrice(10_000_000, 1_250_000, 10_000_000)
    assert not reconcile("big", ours, (2000, 500, 100), dearer).agrees


LOCAL = LocalPrice(
    tariff_nano_per_kwh=300_000_000,
    hardware_nano_per_month=25 * 10**9,
    operations_nano_per_month=2 * 10**9,
    idle_milliwatts=10_000,
)


def test_the_break_even_is_the_formula() -> None:
    result = break_even(LOCAL, local_share=0.8, frontier_nano=1_000_000, local_nano=50_000)
    assert result.idle_nano == 2_190_000_000  # 10 W x 730 h x 0.30
    assert result.fixed_nano == 29_190_000_000
    assert result.requests == pytest.approx(29_190_000_000 / 750_000)


@pytest.mark.parametrize(("share", "here"), [(0.0, 0), (0.5, 500_000), (0.4, 500_000)])
def test_a_request_that_gains_nothing_never_pays(share: float, here: int) -> None:
    result = break_even(LOCAL, local_share=share, frontier_nano=1_000_000, local_nano=here)
    assert result.requests is None


@pytest.mark.parametrize(("share", "frontier"), [(1.1, 1.0), (-0.1, 1.0), (0.5, -1.0)])
def test_odd_numbers_are_refused(share: float, frontier: float) -> None:
    with pytest.raises(ValueError, match=r"share|less than nothing"):
        break_even(LOCAL, local_share=share, frontier_nano=frontier, local_nano=0)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("all", 0),
        ("2d", 8 * US_PER_DAY),
        ("36h", 8 * US_PER_DAY + US_PER_DAY // 2),
        ("99999d", 0),
        ("1970-01-05", 4 * US_PER_DAY),
    ],
)
def test_a_while_back_or_a_date(text: str, start: int) -> None:
    assert parse_since(text, 10 * US_PER_DAY) == start


@pytest.mark.parametrize("text", ["", "yesterday", "3w", "2026-13-01"])
def test_another_since_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--since"):
        parse_since(text, 0)


def said(resolved: bool, explicit: bool) -> Outcome:
    return Outcome(at_us=1, task_id="t", resolved=resolved, explicit=explicit)


def test_what_somebody_said_outweighs_what_was_guessed() -> None:
    assert verdict([]) is None
    assert verdict([said(True, False), said(False, False)]) is False
    assert verdict([said(True, True), said(False, False)]) is True
    assert verdict([said(True, True), said(False, True)]) is False
    with pytest.raises(ValueError, match="at_us"):
        Outcome(at_us=-1, task_id="t", resolved=True)
    with pytest.raises(ValueError, match="shorten"):
        Outcome(at_us=1, task_id="t" * 201, resolved=True)
