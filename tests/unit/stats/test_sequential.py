"""Alarms, halts and plans: state, rules, and their error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.stats.cusum import BernoulliCusum
from edge_runtime.stats.difference import DifferenceInDifferences
from edge_runtime.stats.eprocess import BettingProcess, alternatives
from edge_runtime.stats.planner import (
    box_pairs_until_verdict,
    detectable_drop,
    observations_until_alarm,
    pairs_until_halt,
    requests_until_cusum,
)
from edge_runtime.stats.sprt import PairedSprt
from edge_runtime.stats.verdict import Verdict


def cusum_delay(rate: float, generator: np.random.Generator, limit: int) -> int:
    watch = BernoulliCusum(0.10, 0.15)
    for place, value in enumerate(generator.random(limit) < rate, 1):
        if watch.observe(bool(value)):
            return place
    return limit + 1


@pytest.mark.parametrize(("rate", "low", "high"), [(0.20, 110, 190), (0.15, 280, 520)])
def test_cusum_sees_a_jump_as_fast_as_it_says(rate: float, low: int, high: int) -> None:
    generator = np.random.default_rng(8)
    delays = [cusum_delay(rate, generator, 5000) for _ in range(60)]
    assert low < np.mean(delays) < high


def test_cusum_is_quiet_on_what_it_expects() -> None:
    generator = np.random.default_rng(9)
    alarms = sum(cusum_delay(0.10, generator, 2000) <= 2000 for _ in range(40))
    assert alarms <= 12  # 2,000 of more than 16,000: 1 in 8, 40 times


def test_cusum_adds_the_log_likelihood_ratio_and_latches() -> None:
    watch = BernoulliCusum(0.1, 0.2, h=1.0)
    assert not watch.observe(True)
    assert watch.statistic == pytest.approx(math.log(2))
    assert watch.observe(True)
    assert all(watch.observe(False) for _ in range(100))
    assert watch.statistic == 0.0
    watch.reset()
    assert not watch.alarmed


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 60))
def test_a_restored_watch_goes_on_as_if_nothing_had_happened(seen: list[bool], at: int) -> None:
    whole = BernoulliCusum(0.1, 0.3)
    bets = BettingProcess(0.1, 0.01)
    for value in seen:
        whole.observe(value)
        bets.observe(value)
    first, first_bets = BernoulliCusum(0.1, 0.3), BettingProcess(0.1, 0.01)
    for value in seen[:at]:
        first.observe(value)
        first_bets.observe(value)
    second = BernoulliCusum(0.1, 0.3, statistic=first.statistic, alarmed=first.alarmed)
    second_bets = BettingProcess(
        0.1, 0.01, log_capitals=list(first_bets.log_capitals), peak=first_bets.peak
    )
    for value in seen[at:]:
        second.observe(value)
        second_bets.observe(value)
    assert (second.statistic, second.alarmed) == (whole.statistic, whole.alarmed)
    assert (second_bets.log_capitals, second_bets.peak) == (bets.log_capitals, bets.peak)


@given(st.floats(0.01, 0.9), st.floats(1.01, 20))
def test_a_bet_is_fair_at_the_null_and_worth_making_beyond(p0: float, ratio: float) -> None:
    process = BettingProcess(p0, 0.05, odds=[ratio])
    process.observe(1)
    won = math.exp(process.log_capital)
    process = BettingProcess(p0, 0.05, odds=[ratio])
    process.observe(0)
    lost = math.exp(process.log_capital)
    assert p0 * won + (1 - p0) * lost == pytest.approx(1)
    (p1,) = alternatives(p0, [ratio])
    assert won == pytest.approx(p1 / p0)
    assert p1 * math.log(won) + (1 - p1) * math.log(lost) > 0


def test_betting_keeps_its_level_at_every_look() -> None:
    generator = np.random.default_rng(10)
    runs, level = 300, 0.1
    false_alarms = 0
    for _ in range(runs):
        process = BettingProcess(0.1, level)
        false_alarms += any(process.observe(bool(x)) for x in generator.random(800) < 0.1)
    assert 0 < false_alarms / runs <= level + 3 * math.sqrt(level * (1 - level) / runs)


def test_evidence_that_was_seen_is_not_unseen() -> None:
    process = BettingProcess(0.1, 0.05)
    while not process.observe(1):
        pass
    assert all(process.observe(0) for _ in range(500))
    assert process.log_capital < 0


def test_safety_of_a_rollout_halts_the_bad_and_passes_the_good() -> None:
    """Failure of 2 % is allowed; 100 boxes, level 5 %."""
    generator = np.random.default_rng(11)

    def halted(rate: float) -> list[int]:
        found = []
        for _ in range(300):
            process = BettingProcess(0.02, 0.05)
            hits = [process.observe(bool(x)) for x in generator.random(100) < rate]
            found.append(hits.index(True) + 1 if any(hits) else 0)
        return found

    good, bad = halted(0.02), halted(0.10)
    assert np.mean(np.array(good) > 0) <= 0.05
    assert np.mean(np.array(bad) > 0) > 0.82
    assert 25 < np.mean([at for at in bad if at]) < 50


def run_sprt(discordance: float, drop: float, generator: np.random.Generator) -> PairedSprt:
    test = PairedSprt()
    lost, won = (discordance + drop) / 2, (discordance - drop) / 2
    for value in generator.random(20_000):
        old, new = value >= lost + won or value < lost, value >= lost
        if test.observe(old_right=bool(old), new_right=bool(new)) is not Verdict.INSUFFICIENT:
            break
    return test


def test_sprt_sees_three_points_in_some_450_pairs_and_halts_falsely_under_5_percent() -> None:
    generator = np.random.default_rng(12)
    bad = [run_sprt(0.06, 0.03, generator) for _ in range(150)]
    assert np.mean([test.verdict is Verdict.FAIL for test in bad]) > 0.97
    assert 340 < np.mean([test.pairs for test in bad]) < 520
    same = [run_sprt(0.06, 0.0, generator) for _ in range(200)]
    assert np.mean([test.verdict is Verdict.FAIL for test in same]) <= 0.05 + 3 * 0.0154
    assert all(test.verdict is not Verdict.INSUFFICIENT for test in same)


def test_sprt_ignores_agreement_and_sticks_to_its_verdict() -> None:
    test = PairedSprt()
    for _ in range(1000):
        test.observe(old_right=True, new_right=True)
        test.observe(old_right=False, new_right=False)
    assert (test.verdict, test.log_ratio) == (Verdict.INSUFFICIENT, 0.0)
    while test.verdict is Verdict.INSUFFICIENT:
        test.observe(old_right=True, new_right=False)
    assert (test.verdict, test.losses) == (Verdict.FAIL, 11)  # ln 18 / ln 4/3
    pairs = test.pairs
    assert test.observe(old_right=False, new_right=True) is Verdict.FAIL
    assert test.pairs == pairs


def run_boxes(
    effect: float, spread: float, generator: np.random.Generator, *, pairs: int = 120
) -> DifferenceInDifferences:
    test = DifferenceInDifferences(tolerance=0.02)
    for _ in range(pairs):
        fashion = generator.normal(0, 0.2)  # moves both boxes: must not matter
        before = generator.uniform(0.6, 0.9, 2)
        after = before + fashion + generator.normal(0, spread / math.sqrt(2), 2)
        test.observe(
            changed=(float(before[0]), float(after[0] + effect)),
            control=(float(before[1]), float(after[1])),
        )
        if test.verdict is not Verdict.INSUFFICIENT:
            break
    return test


@pytest.mark.parametrize(
    ("effect", "verdict"), [(0.0, Verdict.PASS), (-0.05, Verdict.FAIL), (0.03, Verdict.PASS)]
)
def test_boxes_give_the_right_verdict_in_the_planned_time(effect: float, verdict: Verdict) -> None:
    generator = np.random.default_rng(13)
    tests = [run_boxes(effect, 0.03, generator) for _ in range(60)]
    assert np.mean([test.verdict is verdict for test in tests]) > 0.97
    planned = box_pairs_until_verdict(effect, 0.03, 0.02)
    assert 0.6 * planned < np.mean([test.pairs for test in tests]) < 1.4 * planned


@pytest.mark.parametrize("heavy", [False, True])
def test_boxes_on_the_edge_are_rarely_judged(heavy: bool) -> None:
    """The worst case for both errors; with heavy tails as well, as only symmetry is assumed."""
    generator = np.random.default_rng(14)
    wrong = 0
    for _ in range(200):
        test = DifferenceInDifferences(tolerance=0.02)
        noise = generator.standard_t(2, 150) if heavy else generator.normal(0, 1, 150)
        for value in noise:
            test.observe(changed=(0.0, float(0.03 * value) - 0.02), control=(0.0, 0.0))
        wrong += test.failed
    assert wrong / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_few_boxes_are_never_enough() -> None:
    test = DifferenceInDifferences(tolerance=0.0)
    verdicts = [test.observe(changed=(0.9, 0.0), control=(0.9, 0.9)) for _ in range(40)]
    assert verdicts[9] is Verdict.INSUFFICIENT  # 1/2 a pair: ln(10 / 0.05) takes eleven
    assert verdicts[-1] is Verdict.FAIL


def test_harm_outranks_an_earlier_pass() -> None:
    test = DifferenceInDifferences(tolerance=0.02)
    while test.verdict is not Verdict.PASS:
        test.observe(changed=(0.8, 0.8), control=(0.8, 0.8))
    for _ in range(200):
        test.observe(changed=(0.8, 0.7), control=(0.8, 0.8))
    assert test.verdict is Verdict.FAIL


def test_plans_agree_with_what_the_tests_need() -> None:
    assert 300 < pairs_until_halt(0.03, 0.06) < 470
    assert 600 < pairs_until_halt(0.02, 0.06) < 800
    assert pairs_until_halt(0.005, 0.06) == math.inf
    assert 120 < requests_until_cusum(0.2, BernoulliCusum(0.1, 0.15)) < 200
    assert requests_until_cusum(0.1, BernoulliCusum(0.1, 0.15)) == math.inf
    assert 20 < observations_until_alarm(0.1, 0.02, 0.05) < 60
    assert observations_until_alarm(0.02, 0.02, 0.05) == math.inf


@given(st.integers(15, 400), st.floats(0.005, 0.2), st.floats(0.0, 0.05))
def test_the_detectable_drop_is_one_that_the_boxes_show(
    pairs: int, spread: float, tolerance: float
) -> None:
    drop = detectable_drop(pairs, spread, tolerance)
    assert drop > tolerance
    assert box_pairs_until_verdict(-drop, spread, tolerance) <= pairs
    assert detectable_drop(2 * pairs, spread, tolerance) <= drop + 1e-12


def test_too_few_boxes_detect_nothing() -> None:
    assert detectable_drop(8, 0.01, 0.0) == math.inf


@pytest.mark.parametrize(
    "make",
    [
        lambda: BernoulliCusum(0.2, 0.1),
        lambda: BernoulliCusum(0.1, 0.2, h=0),
        lambda: BernoulliCusum(0.1, 0.2, statistic=-1),
        lambda: BettingProcess(0.0, 0.1),
        lambda: BettingProcess(0.1, 0.1, odds=[0.5]),
        lambda: BettingProcess(0.1, 0.1, log_capitals=[0.0]),
        lambda: BettingProcess(0.1, 0.1).observe(2),
        lambda: PairedSprt(loss_share=0.5),
        lambda: PairedSprt(false_halt=0.6, missed=0.4),
        lambda: DifferenceInDifferences(tolerance=-0.1),
        lambda: DifferenceInDifferences(0.1, stakes=[0]),
        lambda: DifferenceInDifferences(0.1, harm=[0.0]),
        lambda: DifferenceInDifferences(0.1).observe(changed=(0, math.nan), control=(0, 0)),
        lambda: pairs_until_halt(0.1, 0.05),
        lambda: box_pairs_until_verdict(-0.1, -1, 0),
    ],
)
def test_what_makes_no_sense_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()  # type: ignore[operator]
