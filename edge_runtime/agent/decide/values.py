"""The values the decider takes and gives: records, facts, outcomes, plans."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from edge_runtime.agent.protocol import (
    BoxState,
    DeferReason,
    Failure,
    FailureCode,
    WantItem,
)
from edge_runtime.bundle.manifest import Sha256


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Deferral(_Stored):
    """Why a box waits and where it goes on.

    `boot` and `until_uptime_s` say when a retry is due, on a clock that cannot jump; after a
    restart it is due at once. `until_s` is the UTC time for people, where one is known.
    """

    reason: DeferReason
    back: BoxState
    until_s: int | None = None
    boot: str | None = None
    until_uptime_s: float | None = None


class ItemRecord(_Stored):
    """What a box stores about one wanted thing before it acts on it.

    `before` is the digest that served when the activation began. `attempts` counts activations
    that were begun, `tries` the failures that are tried again. A probation is measured in
    stretches of one boot: `served_s` seconds in earlier stretches, the present one since
    `since_uptime_s` of `boot`. `condemned` is why it is being taken back. `unproven` is a digest
    that an earlier generation activated and never confirmed.
    """

    item: WantItem
    state: BoxState = BoxState.OFFERED
    before: Sha256 | None = None
    attempts: int = Field(default=0, ge=0)
    tries: int = Field(default=0, ge=0)
    deferral: Deferral | None = None
    failure: Failure | None = None
    condemned: Failure | None = None
    unproven: Sha256 | None = None
    served_s: float = Field(default=0.0, ge=0)
    boot: str | None = None
    since_uptime_s: float = 0.0
    crashes: int = Field(default=0, ge=0)

    @property
    def generation(self) -> int:
        """The generation this box works towards, or ended with."""
        return self.item.generation


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """What was counted for the model on probation since it serves in this boot.

    `escalated` of `routed` answers went to the frontier; `before_*` the same for the bundle
    before it. `engine_failures` are ends of its engine. `golden_ok` None: not asked yet.
    `mismatch` says why what runs is not what was activated; empty: it is.
    """

    requests: int = 0
    errors: int = 0
    routed: int = 0
    escalated: int = 0
    before_routed: int = 0
    before_escalated: int = 0
    engine_failures: int = 0
    golden_ok: bool | None = None
    mismatch: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a box knows when it decides about one item.

    `boot` and `uptime_s` are this run of the daemon. `now_s` is UTC, or None while the box has
    no time it may believe. `active` and `previous` are the name's pointer, `staged` whether the
    wanted digest lies whole in the store. `load` is the busy share, 0 to 1. `disk_free_bytes` is
    what the store may take, with what was downloaded for this item already. `turn`: no other
    item of this box is at work. `jitter` is drawn anew, 0 to 1.
    """

    boot: str
    uptime_s: float
    now_s: int | None = None
    active: str | None = None
    previous: str | None = None
    staged: bool = False
    load: float = 0.0
    disk_free_bytes: int = 1 << 62
    metered: bool = False
    turn: bool = True
    jitter: float = 1.0
    health: HealthFacts = HealthFacts()


@dataclass(frozen=True, slots=True)
class Policy:
    """The box's own limits; see `AgentSettings`.

    Retries wait `retry_first_s` doubled each time up to `retry_cap_s`, times a jitter of a half
    to one, and end after `max_tries`. `max_attempts` activations may die with the daemon.
    `checkpoint_s`: how often a probation's time is stored.
    """

    max_load: float = 0.9
    retry_first_s: float = 10.0
    retry_cap_s: float = 6 * 3600.0
    max_tries: int = 50
    max_attempts: int = 2
    checkpoint_s: float = 60.0
    metered_allowed: bool = False


class ActionKind(enum.StrEnum):
    """What to do next; each is safe to do again after a crash."""

    VERIFY = "verify"  # ask the trust gate
    FETCH = "fetch"  # download, or go on with it, and stage
    ACTIVATE = "activate"
    REVERT = "revert"


@dataclass(frozen=True, slots=True)
class Done:
    """The action succeeded, durably."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The action can never succeed for these bytes on this box; nothing it did remains."""

    code: FailureCode
    reason: str


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The action may succeed later; nothing that serves changed."""

    reason: DeferReason
    code: FailureCode
    text: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """It is not known what is on disk: a restart settles it."""

    reason: str


Outcome = Done | GaveUp | TryAgain | Broken


@dataclass(frozen=True, slots=True)
class Plan:
    """Store `record` when it changed, then do `action`; look again after `wake_s` at the latest.

    `wake_s` None: when facts change.
    """

    record: ItemRecord
    action: ActionKind | None = None
    wake_s: float | None = None
