"""What time a box may believe."""

from __future__ import annotations

from edge_runtime.agent.clock import Clock


class Seconds:
    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    def __call__(self) -> float:
        return self.at_s


def make(*, trust_system: bool = False) -> tuple[Clock, Seconds, Seconds]:
    monotonic, system = Seconds(100.0), Seconds(5_000.0)
    return Clock(monotonic, system, trust_system), monotonic, system


def test_nothing_is_believed_before_somebody_said_it() -> None:
    clock, _, _ = make()
    assert clock.now_s() is None
    assert clock.stamp_s() == 5_000  # but something must stand in reports


def test_what_the_control_host_said_runs_on_by_the_monotonic_clock() -> None:
    clock, monotonic, system = make()
    clock.told(1_000_000)
    monotonic.at_s, system.at_s = 160.0, 0.0
    assert clock.now_s() == 1_000_060
    clock.told(1_000_030)  # a message that was late says less
    assert clock.now_s() == 1_000_060
    clock.told(1_000_090)
    assert clock.now_s() == 1_000_090


def test_no_time_lies_before_the_newest_signed_document() -> None:
    clock, _, system = make(trust_system=True)
    assert clock.now_s() == 5_000
    clock.signed(6_000)
    assert clock.now_s() is None
    clock.told(5_500)
    assert clock.now_s() is None
    clock.told(6_001)
    assert clock.now_s() == 6_001
    system.at_s = 9e9
    assert clock.now_s() == 6_001


def test_believed_time_never_runs_backwards() -> None:
    clock, monotonic, system = make(trust_system=True)
    assert clock.now_s() == 5_000
    system.at_s = 4_000.0
    assert clock.now_s() == 5_000
    monotonic.at_s = 100.0
    clock.told(4_500)
    assert clock.now_s() == 5_000


def test_a_told_second_just_below_a_fresh_document_is_no_contradiction() -> None:
    clock, _, _ = make()
    clock.told(1_000_000)
    clock.signed(1_000_001)  # signed within the same second, rounded up
    assert clock.now_s() == 1_000_001
    fresh, _, _ = make()
    fresh.signed(1_000_001)
    fresh.told(1_000_000)
    assert fresh.now_s() == 1_000_001
    fresh.signed(1_000_010)
    assert fresh.now_s() is None
