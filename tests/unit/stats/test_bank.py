"""The bank of bets: the same numbers as its single parts, restarts, and its error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.stats.bank import RISES, BettingBank, Tuning, cusum_limit
from edge_runtime.stats.cusum import BernoulliCusum
from edge_runtime.stats.eprocess import BettingProcess, alternatives

TUNING = Tuning(level=0.01, epoch=10_000, between=1e6)


def alarm_at(bank: BettingBank, rates: np.ndarray, seed: int) -> int | None:
    """The first alarm while row t has independent events of probability rates[t]."""
    generator = np.random.default_rng(seed)
    for place, rate in enumerate(rates, 1):
        if bank.observe((generator.random(len(bank.p0)) < rate).astype(float)):
            return place
    return None


@given(st.lists(st.booleans(), min_size=1, max_size=80), st.floats(0.02, 0.8))
@settings(max_examples=25, deadline=None)
def test_one_value_gives_the_numbers_of_the_single_process_and_cusum(
    events: list[bool], p0: float
) -> None:
    bank = BettingBank((p0,), TUNING)
    single = BettingProcess(p0, 0.01)
    cusums = [BernoulliCusum(p0, p1, h=100.0) for p1 in alternatives(p0, RISES)]
    for event in events:
        bank.observe((float(event),))
        single.observe(float(event))
        for cusum in cusums:
            cusum.observe(event)
    assert bank.log_capital == pytest.approx(single.log_capital, abs=1e-9)
    assert bank.state().cusums == pytest.approx([one.statistic for one in cusums], abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=40), st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_a_restored_bank_goes_on_as_if_nothing_had_happened(
    rows: list[tuple[float, float]], at: int
) -> None:
    tuning = Tuning(level=0.2, epoch=7, between=50)
    whole, first = BettingBank((0.2, 0.4), tuning), BettingBank((0.2, 0.4), tuning)
    second = BettingBank((0.2, 0.4), tuning)
    for row in rows:
        whole.observe(row)
    for row in rows[:at]:
        first.observe(row)
    assert second.restore(first.state())
    for row in rows[at:]:
        second.observe(row)
    assert second.state() == whole.state()


def test_a_state_of_other_bets_is_not_taken() -> None:
    bank = BettingBank((0.2,), TUNING)
    bank.observe((1.0,))
    assert not BettingBank((0.3,), TUNING).restore(bank.state())
    assert not BettingBank((0.2,), Tuning(level=0.02, epoch=10_000, between=1e6)).restore(
        bank.state()
    )


def test_a_late_rise_is_seen_though_capital_was_lost_for_long() -> None:
    rates = np.where(np.arange(4000) < 3000, 0.1, 0.3)
    plain = BettingProcess(0.15, 0.001)
    generator = np.random.default_rng(3)
    assert not any(plain.observe(float(value)) for value in generator.random(4000) < rates)
    bank = BettingBank((0.15,), Tuning(level=0.001, epoch=500, between=1e9))
    generator = np.random.default_rng(3)
    seen = [place for place, value in enumerate(generator.random(4000) < rates)
            if bank.observe((float(value),)) and bank.e_alarmed]  # fmt: skip
    assert 3000 < seen[0] < 3700


def test_the_cusum_sees_a_rise_at_once_in_the_value_that_rose() -> None:
    bank = BettingBank((0.1, 0.5, 0.2), Tuning(level=1e-9, epoch=10**6, between=10_000))
    rates = np.tile([0.08, 0.45, 0.18], (700, 1))
    rates[300:, 2] = 0.5
    found = alarm_at(bank, rates, 5)
    assert found is not None
    assert 300 < found < 420
    assert bank.cusum_alarmed
    assert bank.loudest == 2
    assert bank.means[2] > 0.25 > bank.p0[2]


def test_it_is_quiet_on_what_it_expects() -> None:
    tuning = Tuning(level=0.05, epoch=200, between=20_000)
    alarms = [
        alarm_at(BettingBank((0.1, 0.3), tuning), np.full((600, 2), (0.1, 0.3)), seed)
        for seed in range(16)
    ]
    # At most 5 % by the e-process and about 600 in 20,000 by the CUSUM.
    assert sum(one is not None for one in alarms) <= 4


def test_shares_of_the_level_add_up_to_it() -> None:
    bank = BettingBank((0.1,), Tuning(level=0.04, epoch=5, between=1e6))
    spent = []
    for _ in range(1, 4000):
        bank.seen += 1
        if bank.seen % 5 == 1:
            spent.append(bank._level())
    assert spent[0] == pytest.approx(0.02)
    assert sum(spent) == pytest.approx(0.04, rel=0.01)
    assert sum(spent) < 0.04


def test_the_cusum_limit_grows_with_the_distance_wanted() -> None:
    near, far = cusum_limit(0.1, 0.15, 1000), cusum_limit(0.1, 0.15, 1e6)
    loss = -(0.1 * math.log(1.5) + 0.9 * math.log(0.85 / 0.9))
    assert (math.exp(far) - far - 1) / loss == pytest.approx(1e6, rel=1e-6)
    assert near < far
    assert cusum_limit(0.1, 0.15, 2) == 1.0
    delays = []
    for seed in range(30):
        generator = np.random.default_rng(seed)
        watch = BernoulliCusum(0.1, 0.15, h=near)
        delays.append(next(at for at in range(10**6) if watch.observe(generator.random() < 0.1)))
    assert np.mean(delays) > 600  # 30 draws of about 1,100, each as wide as its mean


@pytest.mark.parametrize("p0", [(), (0.0,), (1.0,)])
def test_rates_outside_their_domain_are_refused(p0: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rates"):
        BettingBank(p0, TUNING)


@pytest.mark.parametrize("row", [(0.5,), (0.1, 1.1), (-0.1, 0.2), (math.nan, 0.1)])
def test_rows_of_another_shape_or_range_are_refused(row: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="observation"):
        BettingBank((0.1, 0.2), TUNING).observe(row)


@pytest.mark.parametrize(
    "change",
    [
        {"level": 0.0},
        {"epoch": 0},
        {"between": 1.0},
        {"rises": (1.0,)},
        {"rises": ()},
        {"odds": ()},
    ],
)
def test_a_tuning_that_is_none_is_refused(change: dict[str, object]) -> None:
    fine: dict[str, object] = {"level": 0.01, "epoch": 100, "between": 1000.0}
    with pytest.raises(ValueError, match=r"needs|above"):
        Tuning(**{**fine, **change})  # type: ignore[arg-type]
