"""The forecast of a rollout: who, how long, and what its guards can see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fleet.rollout.inventory import OTHER, Artefact, BoxFacts, Needs, strata_of, version_of, why_not
from fleet.rollout.plan import RolloutPlan, check_plan
from fleet.rollout.planner import Forecast, forecast

GIB = 1 << 30
NEW, OLD = "b" * 64, "a" * 64
NEEDS = Needs("int8", "1.32.0", ("avx2",), GIB)
ARTEFACT = Artefact(NEW, GIB, (NEEDS,), {OLD: GIB // 5})
BOX = BoxFacts(
    "t~b", True, arch="x86_64", cpu_model="N100", cpu_features=frozenset({"avx2", "fma"}),
    memory_bytes=4 * GIB, disk_free_bytes=8 * GIB, onnxruntime="1.32.1",
)  # fmt: skip


def plan_of(**parts: Any) -> RolloutPlan:
    base = {"name": "x", "change": {"name": "assistant", "digest": NEW, "release": 2}}
    return check_plan(base | parts, {})


def fleet(count: int, **more: Any) -> list[BoxFacts]:
    return [replace(BOX, box=f"t~b{n}", **more) for n in range(count)]


def see(boxes: list[BoxFacts], **parts: Any) -> Forecast:
    return forecast(plan_of(**parts), ARTEFACT, boxes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"onnxruntime": "1.31.9"}, "onnxruntime 1.31.9 is below 1.32.0"),
        ({"onnxruntime": ""}, "onnxruntime unknown is below 1.32.0"),
        ({"onnxruntime": "1.100.0"}, None),
        ({"cpu_features": frozenset()}, "CPU lacks avx2"),
        ({"memory_bytes": GIB}, "too little memory"),
        ({"disk_free_bytes": GIB}, "too little free disk"),
        ({"reported": False}, "never reported its hardware"),
        ({"active": NEW}, "has it already"),
        ({"taken_by": "r-9"}, "takes part in rollout r-9"),
    ],
)
def test_who_cannot_run_it_and_why(changes: dict[str, Any], reason: str | None) -> None:
    assert why_not(replace(BOX, **changes), ARTEFACT) == reason


def test_any_variant_that_fits_is_enough() -> None:
    small = replace(NEEDS, name="int4", cpu_features=(), size_bytes=GIB // 4)
    both = replace(ARTEFACT, variants=(NEEDS, small))
    weak = replace(BOX, cpu_features=frozenset(), memory_bytes=GIB // 2)
    assert why_not(weak, ARTEFACT) == "CPU lacks avx2"
    assert why_not(weak, both) is None


def test_settings_suit_every_box() -> None:
    assert why_not(replace(BOX, reported=False), Artefact(NEW, 900)) is None


def test_versions_are_numbers() -> None:
    assert version_of("1.9") == (1, 9, 0, 0)
    assert version_of("1.32.0+cpu") == (1, 32, 0, 0)
    assert version_of("dev") is None


def test_rare_hardware_keeps_its_name_until_there_are_too_many_kinds() -> None:
    few = [replace(BOX, box=f"b{n}", cpu_model=f"m{n}") for n in range(5)]
    assert len(set(strata_of(few).values())) == 5
    many = [replace(BOX, box=f"b{n}", cpu_model=f"m{n}") for n in range(60)]
    assert len(set(strata_of(many).values())) == 24
    assert OTHER in strata_of(many).values()


def test_sizes_bytes_and_hours() -> None:
    boxes = fleet(900) + [replace(one, box=f"{one.box}-d", active=OLD) for one in fleet(100)]
    seen = see(boxes, pace={"bytes_per_s": 50e6}, times={"bake_hours": 3})
    assert [wave.boxes for wave in seen.waves] == [20, 78, 392, 490]
    assert (seen.boxes, seen.held_back) == (980, 20)
    assert seen.full_downloads == 900
    assert seen.bytes == pytest.approx((900 + 100 / 5) * GIB * 0.98, rel=0.02)
    assert seen.waves[3].offer_hours == pytest.approx(seen.waves[3].bytes / 50e6 / 3600)
    assert seen.hours == pytest.approx(12 + seen.bytes / 50e6 / 3600)


def test_a_slow_link_of_each_box_adds_to_every_wave() -> None:
    slow = see(fleet(40), pace={"box_bytes_per_s": 100_000})
    fast = see(fleet(40))
    assert slow.hours - fast.hours == pytest.approx(2 * GIB / 100_000 / 3600)


def test_metered_offline_and_left_out_boxes_are_counted_and_named() -> None:
    boxes = fleet(30)
    boxes += [replace(BOX, box="m", metered=True), replace(BOX, box="o", online=False)]
    boxes += [replace(BOX, box=f"weak{n}", memory_bytes=0) for n in range(7)]
    seen = see(boxes)
    assert (seen.metered, seen.offline) == (1, 1)
    count, names = seen.left_out["too little memory"]
    assert (count, len(names)) == (7, 5)


def test_what_safety_guards_can_see() -> None:
    first, *_, last = see(fleet(1000)).safety
    assert (first.exposed, first.needed) == (20, 3)
    assert last.smallest_share is not None
    assert last.smallest_share < 0.04


def test_a_wave_of_one_box_cannot_halt() -> None:
    seen = see(fleet(1))
    assert any("cannot halt on 1 boxes" in warning for warning in seen.warnings)


def test_a_guard_that_will_hold_is_announced() -> None:
    seen = see(fleet(1000), guards={"quality": {"escalation_rate": {}}})
    first = seen.quality[0]
    assert (first.pairs, first.holds, first.measured) == (20, True, False)
    assert first.drop is not None
    assert first.drop > 0.02
    assert seen.quality[-1].pairs == 490
    assert not seen.quality[-1].holds
    assert any("wave 1: guard escalation_rate has 20 pairs" in text for text in seen.warnings)


def test_a_measured_spread_counts_and_a_later_gate_is_not_announced() -> None:
    plan = plan_of(guards={"quality": {"escalation_rate": {"from_wave": 2}}})
    seen = forecast(plan, ARTEFACT, fleet(1000), spreads={"escalation_rate": 0.01})
    assert seen.quality[0].measured
    assert not any(sight.holds for sight in seen.quality)
    assert seen.warnings == ()


def test_nobody_to_compare_with_is_announced() -> None:
    seen = see(fleet(100), guards={"quality": {"p95_s": {}}}, waves={"hold_back": 0.0})
    assert "without a hold-back the last wave has nobody to be compared with" in seen.warnings


def test_nobody_at_all_is_announced() -> None:
    assert see([]).warnings == ("no box that the target names can take part",)
