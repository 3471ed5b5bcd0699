"""The nouns of a rollout: its phases, what may happen to it, and what then has to be done."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edge_runtime.stats.verdict import Verdict


class Phase(enum.StrEnum):
    """Where a rollout is. A gate is no phase: it is asked and answered in one transition."""

    DRAFT = "draft"
    APPROVED = "approved"
    RUNNING = "running"  # the boxes of the wave are being offered the change
    BAKING = "baking"  # all of them ended, or were waited for long enough; being watched
    HOLDING = "holding"  # the gate said: not enough evidence
    PAUSED = "paused"  # a person said: wait
    HALTED = "halted"  # a guard or a person said: no further
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


LIVE = frozenset({Phase.RUNNING, Phase.BAKING, Phase.HOLDING, Phase.PAUSED})
"""Phases in which guards are asked, and one that fails halts."""

ENDED = frozenset({Phase.ROLLED_BACK, Phase.COMPLETED, Phase.CANCELLED})


class Action(enum.StrEnum):
    """What a person may order."""

    APPROVE = "approve"
    PAUSE = "pause"
    RESUME = "resume"
    HALT = "halt"
    ROLLBACK = "rollback"
    RETRY = "retry"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Command:
    """An order of `actor`, with the reason that will stand in the record."""

    action: Action
    actor: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed, or boxes were heard of; the view says what is known now."""


Cause = Command | Tick


class Recall(enum.StrEnum):
    """Which boxes have to be given the old one back."""

    NONE = "none"
    UNFINISHED = "unfinished"  # offered, and not confirmed
    ALL = "all"  # offered, whatever became of it


class Aim(enum.StrEnum):
    """What a box is asked to serve."""

    NEW = "new"
    OLD = "old"


@dataclass(frozen=True, slots=True)
class Offer:
    """One box that waits for its document, with the bytes it will fetch."""

    box: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Boxes of the current wave, by what became of them.

    `waiting` were not offered the change yet; `open` were, and have not ended; `lost` were given
    up on: failed, reverted, stuck, unreachable, too late. `superseded` belong to another rollout
    by now and count for nothing.
    """

    waiting: int = 0
    open: int = 0
    confirmed: int = 0
    lost: int = 0
    superseded: int = 0

    @property
    def taking_part(self) -> int:
        """All but the superseded."""
        return self.waiting + self.open + self.confirmed + self.lost


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the guards say together: `FAIL` if one fails, `PASS` if all pass."""

    verdict: Verdict
    reason: str
    records: tuple[int, ...] = ()
    """Numbers of the stored verdicts it rests on."""


@dataclass(frozen=True, slots=True)
class View:
    """What the machine may know when it decides; all of it is in the store.

    `candidates` boxes could take part if it began now; `waves` is how many there are once it
    has. `offers` and `returns` are the next boxes in order, at most a batch: boxes up to the
    current wave to be given the new one, and boxes in `Recall` to be given the old one back.
    `held_back` likewise after completion. `returning` counts boxes that were told to go back and
    have not said that they did.
    """

    now_s: float
    waves: int = 0
    candidates: int = 0
    wave_counts: Counts = Counts()
    offers: tuple[Offer, ...] = ()
    returns: tuple[Offer, ...] = ()
    returning: int = 0
    held_back: tuple[Offer, ...] = ()
    judgement: Judgement = Judgement(Verdict.INSUFFICIENT, "nothing was judged yet")
    filed_by: str = ""


@dataclass(frozen=True, slots=True)
class RolloutState:
    """The whole state of the machine. `version` rises with every stored decision.

    `wave` counts from 0. `since_s`: start of this phase; `wave_since_s`: of this wave.
    `paced_from_s`, `paced_bytes`: when the byte budget began to run, and what was taken from it.
    `paused_from`, `paused_since_s`: the phase a pause interrupted, and its start. `by_guard`: a
    guard halted it.
    """

    phase: Phase = Phase.DRAFT
    wave: int = 0
    version: int = 0
    since_s: float = 0.0
    wave_since_s: float = 0.0
    paced_from_s: float = 0.0
    paced_bytes: int = 0
    paused_from: Phase | None = None
    paused_since_s: float = 0.0
    by_guard: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """One line of a rollout's history. `gate` is set where a gate was asked."""

    before: Phase
    after: Phase
    wave: int
    at_s: float
    actor: str
    reason: str
    gate: Verdict | None = None
    records: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SetWant:
    """Give a box a document of a new generation that asks for `aim`."""

    box: str
    aim: Aim


@dataclass(frozen=True, slots=True)
class Reopen:
    """Boxes that gave up without having changed may be offered it again (retry)."""


@dataclass(frozen=True, slots=True)
class Enlist:
    """Freeze who takes part, and in which wave, in the same commit."""


Effect = SetWant | Reopen | Enlist


@dataclass(frozen=True, slots=True)
class Decision:
    """What the machine answers. The engine stores all of it in one commit before it acts."""

    state: RolloutState
    transitions: tuple[Transition, ...] = ()
    effects: tuple[Effect, ...] = ()
