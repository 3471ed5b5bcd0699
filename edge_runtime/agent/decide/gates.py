"""What stands between a box and its next step: dates, windows, load, disk, metered links."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.agent.decide.values import Facts, Policy
from edge_runtime.agent.protocol import DeferReason, WantItem

RECHECK_S = 60.0
"""How often conditions nobody announces (load, disk, link, clock) are looked at."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Closed, and why. `wake_s` until it is worth looking again; `until_s` UTC when known."""

    reason: DeferReason
    wake_s: float
    until_s: int | None = None


def past_deadline(item: WantItem, now_s: int | None) -> bool:
    """Whether it is known to be too late to start this."""
    return item.deadline_s is not None and now_s is not None and now_s >= item.deadline_s


def before_fetch(item: WantItem, facts: Facts, policy: Policy) -> Gate | None:
    """What keeps the box from downloading now."""
    if not facts.turn:
        return Gate(DeferReason.TURN, RECHECK_S)
    if item.not_before_s is not None:
        if facts.now_s is None:
            return Gate(DeferReason.CLOCK, RECHECK_S)
        if facts.now_s < item.not_before_s:
            wait_s = float(item.not_before_s - facts.now_s)
            return Gate(DeferReason.NOT_BEFORE, wait_s, item.not_before_s)
    if facts.staged:
        return None  # nothing left to download
    if facts.metered and item.metered == "defer" and not policy.metered_allowed:
        return Gate(DeferReason.METERED, RECHECK_S)
    if facts.disk_free_bytes < item.bytes_full:
        return Gate(DeferReason.DISK, RECHECK_S)
    return None


def before_activation(item: WantItem, facts: Facts, policy: Policy) -> Gate | None:
    """What keeps the box from serving what it holds already."""
    if not facts.turn:
        return Gate(DeferReason.TURN, RECHECK_S)
    timed = item.windows or item.deadline_s is not None or item.not_before_s is not None
    if timed and facts.now_s is None:
        return Gate(DeferReason.CLOCK, RECHECK_S)
    if facts.now_s is not None:
        if item.not_before_s is not None and facts.now_s < item.not_before_s:
            wait_s = float(item.not_before_s - facts.now_s)
            return Gate(DeferReason.NOT_BEFORE, wait_s, item.not_before_s)
        wait = min((window.wait_s(facts.now_s) for window in item.windows), default=0)
        if wait:
            return Gate(DeferReason.WINDOW, float(wait), facts.now_s + wait)
    if facts.load > policy.max_load:
        return Gate(DeferReason.LOAD, RECHECK_S)
    return None
