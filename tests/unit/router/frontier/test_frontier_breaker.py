"""The breaker: when a frontier is left alone."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_runtime.router.contract import FrontierWhy
from edge_runtime.router.frontier.breaker import (
    Breaker,
    BreakerRules,
    Mode,
    Refusal,
    admitted,
    ended,
    look,
    mode,
)
from edge_runtime.router.frontier.verdict import Health

RULES = BreakerRules(
    failures=3,
    open_s=10.0,
    max_open_s=35.0,
    probe_every_s=2.0,
    default_pause_s=1.0,
    max_pause_s=60.0,
    out_of_credit_s=100.0,
)


def after(state: Breaker, *healths: Health, now_s: float = 0.0, probe: bool = False) -> Breaker:
    for health in healths:
        state = ended(state, RULES, now_s, health, probe=probe)
    return state


def opened(now_s: float = 0.0) -> Breaker:
    return after(Breaker(), *[Health.FAILURE] * 3, now_s=now_s)


def may_go(state: Breaker, now_s: float, *, alone: bool = False) -> bool:
    return look(state, RULES, now_s, alone=alone) is None


def test_failures_in_a_row_open_it() -> None:
    state = after(Breaker(), Health.FAILURE, Health.FAILURE)
    assert may_go(state, 0.0)
    state = after(state, Health.ALIVE, Health.FAILURE, Health.FAILURE)
    assert may_go(state, 0.0)
    assert mode(state, 0.0) is Mode.CLOSED
    state = after(state, Health.FAILURE)
    assert look(state, RULES, 4.0, alone=False) == Refusal(FrontierWhy.BREAKER_OPEN, 6.0)
    assert mode(state, 4.0) is Mode.OPEN


@pytest.mark.parametrize("health", [Health.PAUSE, Health.CREDIT, Health.UNKNOWN])
def test_what_is_no_failure_does_not_open_it(health: Health) -> None:
    state = after(Breaker(), *[health] * 50)
    assert may_go(state, 1000.0)
    assert state.failures == 0


def test_one_probe_at_a_time_and_its_success_closes() -> None:
    state = opened()
    assert not may_go(state, 9.9)
    assert may_go(state, 10.0)
    state, probe = admitted(state)
    assert probe
    assert mode(state, 10.0) is Mode.PROBING
    assert not may_go(state, 10.0)
    state = after(state, Health.ALIVE, now_s=11.0, probe=True)
    assert may_go(state, 11.0)
    assert admitted(state) == (state, False)


def test_failed_probes_double_the_wait_up_to_its_bound() -> None:
    state, now_s, waits = opened(), 0.0, []
    for _ in range(4):
        refusal = look(state, RULES, now_s, alone=False)
        assert refusal is not None
        waits.append(refusal.retry_after_s)
        now_s += refusal.retry_after_s
        state, _ = admitted(state)
        state = after(state, Health.FAILURE, now_s=now_s, probe=True)
    assert waits == [10.0, 20.0, 35.0, 35.0]


def test_alone_it_probes_soon_and_at_a_steady_pace() -> None:
    state, now_s = opened(), 0.0
    for _ in range(20):
        assert not may_go(state, now_s + 1.9, alone=True)
        now_s += 2.0
        assert may_go(state, now_s, alone=True)
        assert not may_go(state, now_s, alone=False)
        state, probe = admitted(state)
        assert probe
        assert not may_go(state, now_s, alone=True)  # the others fail fast
        state = after(state, Health.FAILURE, now_s=now_s, probe=True)


def test_a_probe_whose_caller_left_frees_its_place() -> None:
    state, _ = admitted(opened())
    state = after(state, Health.UNKNOWN, now_s=20.0, probe=True)
    assert may_go(state, 20.0)
    assert admitted(state)[1]


def test_what_was_sent_before_the_opening_changes_nothing() -> None:
    state = opened()
    assert after(state, Health.FAILURE, now_s=5.0) == state
    assert after(state, Health.ALIVE, now_s=5.0) == state
    probing, _ = admitted(state)
    assert after(probing, Health.ALIVE, Health.FAILURE, now_s=12.0) == probing


@pytest.mark.parametrize(("asked_s", "kept_s"), [(None, 1.0), (5.0, 5.0), (0.0, 0.0), (1e9, 60.0)])
def test_a_pause_lasts_as_long_as_asked_within_bounds(asked_s: float | None, kept_s: float) -> None:
    state = ended(Breaker(), RULES, 100.0, Health.PAUSE, probe=False, retry_after_s=asked_s)
    assert may_go(state, 100.0 + kept_s)
    if kept_s:
        refusal = look(state, RULES, 100.0, alone=True)
        assert refusal == Refusal(FrontierWhy.RATE_LIMITED, kept_s)
        assert mode(state, 100.0) is Mode.PAUSED


def test_a_longer_pause_is_not_shortened_and_a_success_ends_it() -> None:
    state = ended(Breaker(), RULES, 0.0, Health.PAUSE, probe=False, retry_after_s=30.0)
    state = ended(state, RULES, 1.0, Health.PAUSE, probe=False, retry_after_s=1.0)
    assert not may_go(state, 29.0)
    assert may_go(after(state, Health.ALIVE, now_s=2.0), 2.0)


def test_a_probe_that_is_told_to_slow_down_found_it_alive() -> None:
    state, _ = admitted(opened())
    state = ended(state, RULES, 10.0, Health.PAUSE, probe=True, retry_after_s=3.0)
    assert not may_go(state, 12.9)
    assert may_go(state, 13.0)
    assert mode(state, 13.0) is Mode.CLOSED


def test_without_credit_nobody_asks_until_the_time_is_over() -> None:
    state = after(Breaker(), Health.CREDIT, now_s=50.0)
    for alone in (False, True):
        refusal = look(state, RULES, 60.0, alone=alone)
        assert refusal == Refusal(FrontierWhy.OUT_OF_CREDIT, 90.0)
    assert mode(state, 60.0) is Mode.OUT_OF_CREDIT
    state = after(state, Health.ALIVE, now_s=61.0)  # sent before the money ran out
    assert not may_go(state, 149.9)
    assert may_go(state, 150.0)


class Breakers(RuleBasedStateMachine):
    """Whatever happens: never two probes, never an outage without an end."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Breaker()
        self.now_s = 0.0
        self.calls: list[bool] = []

    @rule(alone=st.booleans())
    def call(self, alone: bool) -> None:
        if may_go(self.state, self.now_s, alone=alone):
            self.state, probe = admitted(self.state)
            self.calls.append(probe)

    @precondition(lambda self: self.calls)
    @rule(
        data=st.data(), health=st.sampled_from(Health), retry_after_s=st.none() | st.floats(0, 1e4)
    )
    def end(self, data: st.DataObject, health: Health, retry_after_s: float | None) -> None:
        probe = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.state = ended(
            self.state, RULES, self.now_s, health, probe=probe, retry_after_s=retry_after_s
        )

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def one_probe_at_most(self) -> None:
        assert sum(self.calls) == self.state.probing <= 1

    @invariant()
    def it_opens_again(self) -> None:
        refusal = look(self.state, RULES, self.now_s, alone=False)
        if refusal is not None:
            assert 0 < refusal.retry_after_s <= 100.001  # rounding
        later_s = self.now_s + 101.0
        assert self.state.probing or may_go(self.state, later_s)

    @invariant()
    def alone_never_waits_longer(self) -> None:
        if may_go(self.state, self.now_s, alone=False):
            assert may_go(self.state, self.now_s, alone=True)


TestBreakers = Breakers.TestCase
