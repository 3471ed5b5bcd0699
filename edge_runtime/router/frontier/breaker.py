"""The breaker of one frontier: when to leave it alone. Pure: states in, states out.

Rules
- Closed: calls go. After `failures` in a row it opens: no call goes until a time, which doubles
  with every probe that fails, up to a bound.
- When that time is over one call goes as a probe, all others are refused until it ended. It
  closes the breaker or opens it again.
- A frontier that nobody could stand in for is never blacked out for long: its probes go every
  `probe_every_s`. So requests fail fast during an outage, and the first success ends it.
- A pause (429) and lost credit (402) refuse calls until a set time, whatever else is known;
  neither is a failure. A success ends a pause, not lost credit: calls sent before it may still
  arrive.

Times are seconds of the caller's monotonic clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from edge_runtime.router.contract import FrontierWhy
from edge_runtime.router.frontier.verdict import Health


class Mode(enum.IntEnum):
    """What the breaker does now; the value of its metric."""

    CLOSED = 0
    PROBING = 1
    OPEN = 2
    PAUSED = 3
    OUT_OF_CREDIT = 4


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """See `settings.BreakerSettings`."""

    failures: int
    open_s: float
    max_open_s: float
    probe_every_s: float
    default_pause_s: float
    max_pause_s: float
    out_of_credit_s: float


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is known of one frontier. `opens` counts openings since the last success."""

    failures: int = 0
    opens: int = 0
    opened_s: float = 0.0
    open_until_s: float = 0.0
    paused_until_s: float = 0.0
    credit_until_s: float = 0.0
    probing: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """No call may go: why, and in how many seconds to ask again."""

    why: FrontierWhy
    retry_after_s: float


def mode(state: Breaker, now_s: float) -> Mode:
    """What the breaker does at `now_s`."""
    if now_s < state.credit_until_s:
        return Mode.OUT_OF_CREDIT
    if now_s < state.paused_until_s:
        return Mode.PAUSED
    if not state.opens:
        return Mode.CLOSED
    return Mode.PROBING if state.probing else Mode.OPEN


def look(state: Breaker, rules: BreakerRules, now_s: float, *, alone: bool) -> Refusal | None:
    """None when a call may go now. `alone`: no other frontier could answer instead."""
    if now_s < state.credit_until_s:
        return Refusal(FrontierWhy.OUT_OF_CREDIT, state.credit_until_s - now_s)
    if now_s < state.paused_until_s:
        return Refusal(FrontierWhy.RATE_LIMITED, state.paused_until_s - now_s)
    if not state.opens:
        return None
    until_s = state.open_until_s
    if alone:
        until_s = min(until_s, state.opened_s + rules.probe_every_s)
    if state.probing:
        return Refusal(FrontierWhy.BREAKER_OPEN, rules.probe_every_s)
    if now_s < until_s:
        return Refusal(FrontierWhy.BREAKER_OPEN, until_s - now_s)
    return None


def admitted(state: Breaker) -> tuple[Breaker, bool]:
    """The state once a call that may go has gone, and whether it is the probe."""
    if not state.opens:
        return state, False
    assert not state.probing, "a second probe"
    return replace(state, probing=True), True


def ended(
    state: Breaker,
    rules: BreakerRules,
    now_s: float,
    health: Health,
    *,
    probe: bool,
    retry_after_s: float | None = None,
) -> Breaker:
    """The state after a call ended. Every call that was admitted must end here once."""
    if probe:
        state = replace(state, probing=False)
    match health:
        case Health.ALIVE:
            # A slow success from before an opening says nothing about now, unless it is a probe.
            if state.opens and not probe:
                return state
            return replace(state, failures=0, opens=0, paused_until_s=0.0)
        case Health.FAILURE:
            return _failed(state, rules, now_s, probe=probe)
        case Health.PAUSE:
            wanted = rules.default_pause_s if retry_after_s is None else retry_after_s
            until_s = now_s + min(wanted, rules.max_pause_s)
            state = replace(state, paused_until_s=max(state.paused_until_s, until_s))
            return replace(state, failures=0, opens=0) if probe else state
        case Health.CREDIT:
            return replace(state, credit_until_s=now_s + rules.out_of_credit_s)
        case Health.UNKNOWN:
            return state


def _failed(state: Breaker, rules: BreakerRules, now_s: float, *, probe: bool) -> Breaker:
    if state.opens and not probe:
        return state  # sent before it opened: nothing new
    failures = state.failures + 1
    if not probe and failures < rules.failures:
        return replace(state, failures=failures)
    wait_s = min(rules.max_open_s, rules.open_s * 2.0 ** min(state.opens, 60))
    return replace(
        state,
        failures=failures,
        opens=state.opens + 1,
        opened_s=now_s,
        open_until_s=now_s + wait_s,
    )
