"""Whether a failed try is repeated, and when."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.router.contract import FrontierWhy
from edge_runtime.router.frontier.retry import (
    MIN_USEFUL_S,
    WAKE_EARLY_S,
    Again,
    Move,
    RetryRules,
    Stop,
    after_failure,
    backoff_bound,
)
from edge_runtime.router.frontier.verdict import Health, Repeat, Verdict

RULES = RetryRules(max_tries=3, backoff_s=0.5, max_backoff_s=4.0)


def verdict(repeat: Repeat, retry_after_s: float | None = None) -> Verdict:
    return Verdict(FrontierWhy.UNREACHABLE, "", Health.FAILURE, repeat, retry_after_s=retry_after_s)


def after(
    one: Verdict,
    tries: int = 1,
    *,
    others: bool = False,
    left_s: float | None = None,
    draw: float = 0.5,
) -> Again | Move | Stop:
    return after_failure(one, RULES, tries=tries, others=others, left_s=left_s, draw=draw)


@pytest.mark.parametrize(
    ("repeat", "others", "decision"),
    [
        (Repeat.SAME, False, Again(0.25)),
        (Repeat.SAME, True, Again(0.25)),
        (Repeat.LATER, False, Again(0.25)),
        (Repeat.LATER, True, Move()),
        (Repeat.NEXT, False, Move()),
        (Repeat.NEXT, True, Move()),
        (Repeat.NEVER, False, Stop()),
        (Repeat.NEVER, True, Stop()),
    ],
)
def test_the_verdict_says_where_to_go(
    repeat: Repeat, others: bool, decision: Again | Move | Stop
) -> None:
    assert after(verdict(repeat), others=others) == decision


def test_tries_are_bounded_and_waits_double() -> None:
    waits = [after(verdict(Repeat.SAME), tries, draw=1.0) for tries in (1, 2, 3)]
    assert waits == [Again(0.5), Again(1.0), Move()]
    assert backoff_bound(10_000, RULES) == 4.0


def test_a_retry_after_is_waited_out_in_full() -> None:
    assert after(verdict(Repeat.LATER, 2.0), draw=0.0) == Again(2.0 + WAKE_EARLY_S)
    assert after(verdict(Repeat.LATER, 2.0), draw=0.5) == Again(2.25 + WAKE_EARLY_S)
    assert after(verdict(Repeat.LATER, 4.1)) == Move()  # longer than anybody waits


@pytest.mark.parametrize("repeat", list(Repeat))
def test_no_time_left_ends_it(repeat: Repeat) -> None:
    assert after(verdict(repeat), left_s=MIN_USEFUL_S) == Stop()
    assert after(verdict(repeat), left_s=-3.0) == Stop()


def test_no_wait_is_begun_that_leaves_no_time_for_an_answer() -> None:
    assert after(verdict(Repeat.SAME), left_s=0.25 + MIN_USEFUL_S) == Move()
    assert after(verdict(Repeat.SAME), left_s=0.26 + MIN_USEFUL_S) == Again(0.25)


@given(
    st.sampled_from(Repeat),
    st.integers(1, 200),
    st.booleans(),
    st.none() | st.floats(-10, 100),
    st.none() | st.floats(0, 1000),
    st.floats(0, 1, exclude_max=True),
)
def test_whatever_happens_a_wait_fits_its_bounds(
    repeat: Repeat,
    tries: int,
    others: bool,
    left_s: float | None,
    retry_after_s: float | None,
    draw: float,
) -> None:
    one = verdict(repeat, retry_after_s)
    decision = after(one, tries, others=others, left_s=left_s, draw=draw)
    if isinstance(decision, Again):
        assert tries < RULES.max_tries
        assert decision.after_s >= (retry_after_s or 0.0)
        assert decision.after_s <= 2 * RULES.max_backoff_s + WAKE_EARLY_S
        assert left_s is None or decision.after_s + MIN_USEFUL_S < left_s
    earlier = after(dataclasses.replace(one), tries, others=others, left_s=left_s, draw=draw)
    assert earlier == decision
