"""The words a box and the control host share about one wanted thing."""

from __future__ import annotations

import enum


class ItemKind(enum.StrEnum):
    """What is rolled out; all three go by the same machinery."""

    BUNDLE = "bundle"
    SETTINGS = "settings"
    DAEMON = "daemon"


class BoxState(enum.StrEnum):
    """Where a box is with one wanted thing."""

    IDLE = "idle"  # nothing is wanted
    OFFERED = "offered"  # a want was read and stored, nothing was judged yet
    ACCEPTED = "accepted"  # trusted, fits, may be fetched
    FETCHING = "fetching"
    STAGED = "staged"  # every byte is here and durable
    ACTIVATING = "activating"
    PROBATION = "probation"  # it serves; the old one is kept and health is watched
    CONFIRMED = "confirmed"
    DEFERRED = "deferred"  # not now: see the reason; taken up again by itself
    REVERTING = "reverting"
    REVERTED = "reverted"  # the old one serves again
    FAILED = "failed"  # see kind and code; only a new generation starts anything
    SUPERSEDED = "superseded"  # a newer generation took its place


ENDS = frozenset(
    {BoxState.CONFIRMED, BoxState.REVERTED, BoxState.FAILED, BoxState.SUPERSEDED, BoxState.IDLE}
)
"""States a box stays in until a new generation comes."""

SERVES_NEW = frozenset({BoxState.PROBATION, BoxState.CONFIRMED})
"""States in which the wanted thing is what serves."""


class FailureKind(enum.StrEnum):
    """What a failure left behind; a guard weighs the three very differently."""

    NO_CHANGE = "no_change"  # the old one never stopped serving
    REVERTED = "reverted"  # the new one served and was taken back
    STUCK = "stuck"  # neither serves as wanted: somebody has to look


class FailureCode(enum.StrEnum):
    """Why a box gave a wanted thing up."""

    UNTRUSTED = "untrusted"  # no trusted signature says so, or it says something else
    BELOW_FLOOR = "below_floor"  # an older release than this box may go back to
    DEADLINE = "deadline"  # it came too late to be started
    INCOMPATIBLE = "incompatible"  # runtime floor, CPU features or memory
    NO_SPACE = "no_space"
    TRANSFER = "transfer"  # no source gave the bytes within the allowed tries
    CORRUPT = "corrupt"  # bytes came, but not those that were signed
    DELTA = "delta"  # no delta fits and a full download is not allowed
    REFUSED = "refused"  # it did not load, or answered its golden inputs wrong
    CRASHES = "crashes"  # the daemon or the engine ended too often on probation
    ERRORS = "errors"  # too large a share of failed requests on probation
    GOLDEN = "golden"  # golden answers went wrong on probation
    ESCALATION = "escalation"  # it escalates more than the one before by too much
    DISK = "disk"  # the disk failed
    CANCELLED = "cancelled"
    INTERNAL = "internal"  # a bug: the log says more


class DeferReason(enum.StrEnum):
    """Why a box waits."""

    NOT_BEFORE = "not_before"
    WINDOW = "window"
    CLOCK = "clock"  # a window or a date is set and the box does not know the time
    LOAD = "load"
    DISK = "disk"
    MEMORY = "memory"  # both models do not fit beside each other
    METERED = "metered"
    TRUST = "trust"  # trust metadata has expired or could not be fetched
    NETWORK = "network"  # no source answers
    DELTA = "delta"  # no delta fits; waits for one, or for leave to fetch everything
    TURN = "turn"  # another name of this box goes first


class Health(enum.StrEnum):
    """How long a box has not been heard of; the control host's word, never the box's."""

    ONLINE = "online"
    SILENT = "silent"
    UNREACHABLE = "unreachable"
