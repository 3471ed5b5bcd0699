"""Harm among exposed boxes: the same evidence as in sequence, in whatever order it comes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.stats.eprocess import BettingProcess
from edge_runtime.stats.exposure import ExposureProcess, harmed_until_alarm, log_evidence


@given(st.lists(st.booleans(), min_size=1, max_size=80))
def test_the_end_agrees_with_the_sequential_bets(outcomes: list[bool]) -> None:
    bets = BettingProcess(0.02, 0.05, odds=(2.0, 5.0))
    boxes = ExposureProcess(0.02, 0.05, bets=((2.0, 0.5), (5.0, 0.5)))
    for harmed in outcomes:
        bets.observe(harmed)
        boxes.expose()
    for _ in range(sum(outcomes)):
        boxes.harm()
    assert boxes.log_capital == pytest.approx(bets.log_capital, abs=1e-9)


def test_an_alarm_stays() -> None:
    boxes = ExposureProcess(0.02, 0.05)
    for _ in range(5):
        boxes.expose()
        boxes.harm()
    assert boxes.alarmed
    for _ in range(500):
        assert boxes.expose()
    assert boxes.log_capital < 0


@pytest.mark.parametrize("exposed", [3, 20, 100, 1000])
def test_the_number_needed_is_the_first_that_alarms(exposed: int) -> None:
    needed = harmed_until_alarm(exposed, 0.02, 0.05)
    assert needed is not None
    assert log_evidence(exposed, needed, 0.02) >= math.log(20)
    assert log_evidence(exposed, needed - 1, 0.02) < math.log(20)


def test_one_box_is_too_few() -> None:
    assert harmed_until_alarm(1, 0.02, 0.05) is None


@pytest.mark.parametrize(
    "state",
    [
        {"p0": 0}, {"p0": 1}, {"level": 0}, {"level": 1},
        {"bets": ()}, {"bets": ((1.0, 1.0),)}, {"bets": ((2.0, 0.5),)},
        {"counts": {None: (3, 4)}}, {"counts": {None: (3, -1)}}, {"strata": ("a", "a")},
    ],
)  # fmt: skip
def test_impossible_states_are_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs|bets|cannot|twice"):
        ExposureProcess(**({"p0": 0.02, "level": 0.05} | state))


def test_nobody_is_harmed_who_was_not_exposed() -> None:
    with pytest.raises(ValueError, match="more boxes harmed"):
        ExposureProcess(0.02, 0.05).harm()


def test_harm_that_is_known_first_alarms_no_more_often_than_promised() -> None:
    """All 200 boxes of a wave at once; the harmed say so at once, the others never."""
    generator = np.random.default_rng(5)
    harmed = generator.binomial(200, 0.02, 3000)
    needed = harmed_until_alarm(200, 0.02, 0.05)
    assert needed is not None
    assert np.mean(harmed >= needed) <= 0.05
    # Sequential bets on outcomes as they finish would alarm in most of these runs.
    naive = BettingProcess(0.02, 0.05)
    assert any(naive.observe(1.0) for _ in range(4))


def test_a_kind_of_hardware_that_always_fails_alarms_where_the_whole_would_not() -> None:
    strata = [f"s{n}" for n in range(10)]
    whole, split = ExposureProcess(0.02, 0.05), ExposureProcess(0.02, 0.05, strata)
    for n in range(300):
        stratum = "s0" if n % 60 == 0 else f"s{1 + n % 9}"
        for process in (whole, split):
            process.expose(stratum)
            if stratum == "s0":
                process.harm(stratum)
    assert (split.exposed, split.harmed) == (300, 5)
    assert split.alarmed
    assert not whole.alarmed


def test_the_whole_pays_little_for_the_strata() -> None:
    plain, split = ExposureProcess(0.02, 0.05), ExposureProcess(0.02, 0.05, ["a", "b"])
    for n in range(40):
        plain.expose()
        split.expose("ab"[n % 2])
    for _ in range(4):
        plain.harm()
        split.harm(None)  # its stratum was not named: it counts for the whole only
    assert plain.log_capital - split.log_capital < math.log(1 / 0.8) + 1e-9


def test_strata_alarm_no_more_often_than_promised() -> None:
    generator = np.random.default_rng(8)
    strata = [f"s{n}" for n in range(8)]
    alarms = 0
    for _ in range(400):
        process = ExposureProcess(0.02, 0.05, strata)
        for n, harmed in enumerate(generator.random(150) < 0.02):
            process.expose(strata[n % 8])
            if harmed:
                process.harm(strata[n % 8])
        alarms += process.alarmed
    assert alarms / 400 <= 0.05


def test_a_restart_goes_on_where_it_was() -> None:
    first = ExposureProcess(0.02, 0.05, ["a", "b"])
    first.expose("a")
    first.expose("b")
    first.harm("b")
    again = ExposureProcess(0.02, 0.05, ["a", "b"], counts=dict(first.counts), peak=first.peak)
    assert again.log_capital == first.log_capital
