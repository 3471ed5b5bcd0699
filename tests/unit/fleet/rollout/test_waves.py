"""Waves: stable, proportional, and no box in two pairs."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.rollout.waves import HOLD_BACK, SPREAD, Candidate, Member, enlist, wave_ends

SHARES = (0.01, 0.1, 0.5, 1.0)


def boxes(**strata: int) -> list[Candidate]:
    return [
        Candidate(f"t~{name}-{n}", name, 5) for name, count in strata.items() for n in range(count)
    ]


def members(rollout: str = "r1", **strata: int) -> tuple[Member, ...]:
    return enlist(boxes(**strata), rollout, SHARES, least_boxes=20, hold_back=0.02)


@pytest.mark.parametrize(
    ("count", "ends"),
    [
        (10_000, (98, 980, 4900, 9800)),
        (1000, (20, 98, 490, 980)),
        (100, (20, 49, 98)),
        (40, (20, 40)),
        (5, (5,)),
        (0, ()),
    ],
)
def test_sizes_of_waves(count: int, ends: tuple[int, ...]) -> None:
    assert wave_ends(count, SHARES, least_boxes=20, hold_back=0.02) == ends


def test_the_same_rollout_is_the_same_and_another_is_another() -> None:
    first = members(a=300, b=100)
    shuffled = enlist(reversed(boxes(a=300, b=100)), "r1", SHARES, least_boxes=20, hold_back=0.02)
    assert first == shuffled
    canaries = {one.box for one in first if one.wave == 0}
    others = {one.box for one in members("r2", a=300, b=100) if one.wave == 0}
    assert len(canaries & others) < 10


def test_every_stretch_holds_every_hardware_in_proportion() -> None:
    order = members(x86=700, arm=300)
    for end in (98, 490, 980):
        share = sum(one.stratum == "arm" for one in order[:end]) / end
        assert share == pytest.approx(0.3, abs=0.02)
    held = [one for one in order if one.wave == HOLD_BACK]
    assert len(held) == 20
    assert 4 <= sum(one.stratum == "arm" for one in held) <= 8


def test_rare_hardware_is_in_the_first_wave() -> None:
    order = members(x86=5000, arm=40, riscv=4, odd=1)
    first = Counter(one.stratum for one in order if one.wave == 0)
    assert sum(first.values()) == 50
    assert (first["arm"], first["riscv"], first["odd"]) == (SPREAD, SPREAD, 1)


def test_more_kinds_than_boxes_still_fill_the_first_wave() -> None:
    order = members(**{f"s{n}": 10 for n in range(50)})
    assert sum(one.wave == 0 for one in order) == 20


def test_the_last_wave_is_compared_with_those_held_back() -> None:
    order = members(a=1000)
    wave_of = {one.box: one.wave for one in order}
    paired = Counter(one.wave for one in order if one.partner)
    assert paired[0] == 20
    assert paired[1] == 78
    assert paired[2] == 372
    assert paired[3] == 20
    assert {wave_of[one.partner] for one in order if one.wave == 3 and one.partner} == {HOLD_BACK}
    assert {wave_of[one.partner] for one in order if one.wave == 0 and one.partner} == {3}


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 60), min_size=1),
    st.floats(0, 0.5),
    st.integers(1, 30),
)
def test_whatever_the_fleet(strata: dict[str, int], hold_back: float, least: int) -> None:
    candidates = boxes(**strata)
    order = enlist(candidates, "r", SHARES, least_boxes=least, hold_back=hold_back)
    assert sorted(one.box for one in order) == sorted(one.box for one in candidates)
    assert [one.place for one in order] == list(range(len(order)))
    waves = [one.wave for one in order if one.wave != HOLD_BACK]
    assert waves == sorted(waves)
    assert set(waves) == set(range(max(waves, default=-1) + 1))
    assert sum(one.wave == 0 for one in order) >= min(least, len(waves))
    by_box = {one.box: one for one in order}
    pairs = [(one, by_box[one.partner]) for one in order if one.partner]
    in_pairs = [one.box for pair in pairs for one in pair]
    assert len(in_pairs) == len(set(in_pairs))
    for changed, control in pairs:
        assert changed.stratum == control.stratum
        assert control.wave == HOLD_BACK or control.wave > changed.wave >= 0
