"""Whether a failed try is repeated, when, or whether the next frontier is asked. Pure.

Rules
- A chat has no effect but its price, so sending it again is safe as long as no part of an answer
  was given out. Each try reserves its own money.
- Waits are drawn from 0 to a bound that doubles (full jitter, Brooker, AWS 2015): callers that
  failed together do not come back together. A `Retry-After` is waited out in full, with jitter
  on top.
- No wait is begun that leaves no time for an answer before the deadline.
- While another frontier could answer, nobody waits for one that asked for a pause or was slow.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.router.frontier.verdict import Repeat, Verdict

MIN_USEFUL_S = 0.05  # less time than this answers nothing
WAKE_EARLY_S = 0.001  # timers may fire this much before their time


@dataclass(frozen=True, slots=True)
class RetryRules:
    """Bounds of the tries at one frontier."""

    max_tries: int
    backoff_s: float
    max_backoff_s: float


@dataclass(frozen=True, slots=True)
class Again:
    """Send it once more to the same frontier, `after_s` from now."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Move:
    """Ask the next frontier, if there is one."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask nobody any more."""


def after_failure(
    verdict: Verdict,
    rules: RetryRules,
    *,
    tries: int,
    others: bool,
    left_s: float | None,
    draw: float,
) -> Again | Move | Stop:
    """What to do after `tries` failed tries (>= 1) at this frontier.

    `others`: another frontier of the order could answer now. `left_s`: time until the caller's
    deadline. `draw`: a random number of [0, 1).
    """
    if verdict.repeat is Repeat.NEVER or (left_s is not None and left_s <= MIN_USEFUL_S):
        return Stop()
    if verdict.repeat is Repeat.NEXT or tries >= rules.max_tries:
        return Move()
    if verdict.repeat is Repeat.LATER and others:
        return Move()
    wait_s = draw * backoff_bound(tries, rules)
    if verdict.retry_after_s is not None:
        if verdict.retry_after_s > rules.max_backoff_s:
            return Move()  # longer than anybody waits here
        wait_s += verdict.retry_after_s + WAKE_EARLY_S
    if left_s is not None and wait_s + MIN_USEFUL_S >= left_s:
        return Move()
    return Again(wait_s)


def backoff_bound(tries: int, rules: RetryRules) -> float:
    """The most that is waited after `tries` failures, without a `Retry-After`."""
    return min(rules.max_backoff_s, rules.backoff_s * 2.0 ** min(tries - 1, 60))
