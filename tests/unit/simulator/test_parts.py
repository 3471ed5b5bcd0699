"""Faults, wires, clocks and flaws: seeded, bounded, and nothing that was not asked for."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from edge_runtime.agent.protocol import Ack, mark_key
from fleet.ingest.figures import all_figures
from fleet.ingest.sums import Sums, add_part, sums_of_row
from fleet.simulator.clock import FastClock
from fleet.simulator.faults import DAY_S, NO_FAULTS, FaultRates, Schedule
from fleet.simulator.spool import STREAM, Spool
from fleet.simulator.traffic import drawn_count, make_row
from fleet.simulator.wire import Wire
from fleet.simulator.world import Flaws, World, make_spec, simulated_bundle

SPEC = make_spec("acme", 1)


def schedule(rates: FaultRates, seed: int = 1) -> Schedule:
    return Schedule(rates, random.Random(seed), 0.0)


def times(found: Schedule, until_s: float) -> list[float]:
    happened = []
    while (at_s := found.next_s) is not None and at_s < until_s:
        happened.append(at_s)
        found.take(at_s)
    return happened


def test_a_fault_nobody_asked_for_never_happens() -> None:
    quiet = schedule(NO_FAULTS)
    assert quiet.next_s is None
    assert (quiet.slow, quiet.silent_from_s) == (1.0, None)


def test_faults_come_at_the_rate_that_was_asked_for_and_at_the_same_times_again() -> None:
    rates = FaultRates(power_cuts_per_day=10, link_drops_per_day=20)
    found = times(schedule(rates), 30 * DAY_S)
    assert 750 < len(found) < 1050
    assert found == times(schedule(rates), 30 * DAY_S)
    assert found != times(schedule(rates, seed=2), 30 * DAY_S)


def test_rates_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError):
        FaultRates(corrupt_share=1.5)
    with pytest.raises(ValidationError):
        FaultRates(power_cuts_per_day=float("inf"))


def test_a_wire_loses_nothing_and_changes_the_order_of_neighbours_only() -> None:
    wire: Wire[int] = Wire(random.Random(3), duplicate_share=0.2, late_share=0.3)
    arrived = [out for number in range(500) for out in wire.passed([number])] + wire.flush()
    assert set(arrived) == set(range(500))
    assert len(arrived) > 550
    assert arrived != sorted(arrived)
    assert max(abs(place - number) for place, number in enumerate(dict.fromkeys(arrived))) == 1


def test_a_wire_that_is_cut_loses_what_was_under_way() -> None:
    wire: Wire[int] = Wire(random.Random(3), duplicate_share=0.0, late_share=1.0)
    assert wire.passed([1]) == []
    assert wire.waiting
    wire.cut()
    assert wire.flush() == []


def test_partial_flaws_hit_the_same_boxes_in_every_run() -> None:
    bundle = simulated_bundle("assistant", 2, Flaws(crash_share=0.1))
    hit = [World.of(bundle, seed=5).crashes(bundle.digest, f"acme~{n}", "") for n in range(2000)]
    again = [World.of(bundle, seed=5).crashes(bundle.digest, f"acme~{n}", "") for n in range(2000)]
    assert hit == again
    assert 140 < sum(hit) < 260
    assert not World.of(bundle, seed=5).refuses(bundle.digest, "acme~1", "")


def test_a_flaw_of_some_hardware_is_one_of_that_hardware_only() -> None:
    bundle = simulated_bundle("assistant", 2, Flaws(refused_on=frozenset({"Intel N100"})))
    world = World.of(bundle)
    assert world.refuses(bundle.digest, "acme~1", "Intel N100")
    assert not world.refuses(bundle.digest, "acme~1", "AMD Ryzen V1500B")
    assert not world.refuses("0" * 64, "acme~1", "Intel N100")


def test_simulated_time_runs_faster_by_the_factor() -> None:
    real = [100.0]
    clock = FastClock(60.0, start_s=1e9, zero_s=100.0, monotonic_s=lambda: real[0])
    real[0] += 2.0
    assert clock.now_s() == pytest.approx(1e9 + 120)
    assert clock.real_s(300) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="factor"):
        FastClock(0.0)


def rows(flaws: Flaws, count: int = 100) -> dict[str, float]:
    bundle, rng = simulated_bundle("assistant", 1, flaws), random.Random(4)
    made = [
        make_row(SPEC, bundle, flaws, rng, seq=seq, uptime_s=300.0 * seq, length_s=300.0, clock_s=1)
        for seq in range(1, count + 1)
    ]
    total = Sums()
    for row in made:
        for digest, sums in sums_of_row(row, 0.0).items():
            add_part(total, digest, sums)
    return dict(all_figures(total))


def test_telemetry_shows_a_bundle_that_is_a_little_worse_everywhere() -> None:
    good = rows(Flaws())
    worse = rows(Flaws(escalation_shift=0.04, error_share=0.02, slower=2.0))
    assert good["escalation_rate"] == pytest.approx(0.12, abs=0.01)
    assert worse["escalation_rate"] == pytest.approx(0.16, abs=0.01)
    assert (good["errors"], worse["error_rate"]) == (0, pytest.approx(0.02, abs=0.005))
    assert 1.7 < worse["p95_s"] / good["p95_s"] < 2.3
    assert good["tokens_per_s"] == pytest.approx(2 * worse["tokens_per_s"], rel=0.01)


def test_counts_are_drawn_around_their_mean_and_within_their_bounds() -> None:
    rng = random.Random(1)
    few = [drawn_count(rng, 20, 0.3) for _ in range(2000)]
    many = [drawn_count(rng, 10_000, 0.3) for _ in range(200)]
    assert sum(few) / len(few) == pytest.approx(6, abs=0.3)
    assert sum(many) / len(many) == pytest.approx(3000, abs=20)
    assert drawn_count(rng, 7, 2.0) == 7
    assert drawn_count(rng, 7, -1.0) == 0


def row(seq: int) -> object:
    return make_row(
        SPEC, None, Flaws(), random.Random(seq), seq=seq, uptime_s=seq, length_s=1, clock_s=1
    )


def test_rows_stay_until_their_watermark_and_are_sent_once_until_asked_again() -> None:
    spool = Spool()
    for seq in range(1, 4):
        spool.add("b1", row(seq))  # type: ignore[arg-type]
    assert len(spool.batches(1)) == 1
    assert spool.batches(1) == []
    spool.unsent()
    assert len(spool.batches(1)) == 1
    assert spool.acknowledge(Ack(now_s=1, marks={mark_key("b1", STREAM): 2})) == 2
    assert (len(spool), spool.made) == (1, {"b1": 3})


def test_past_its_limit_the_oldest_rows_go_and_are_counted() -> None:
    spool = Spool(max_rows=3)
    for seq in range(1, 6):
        spool.add("b1", row(seq))  # type: ignore[arg-type]
    assert (len(spool), spool.evicted, spool.made) == (3, 2, {"b1": 3})
    assert spool.state().evicted_rows == 2
