"""What the engine needs of storage and of the link to boxes, as protocols.

Rules
- Work runs in one transaction: all of it is durable when `write` returns, none of it when it
  raises. Work may be run again after it raised, and must not act outside the transaction.
- `put_state` is a compare and set on the state's version: of two engines one wins.
- A want is stored with its generation before anybody publishes it. What was stored and not marked
  as published is published again; boxes ignore a generation they know.

In-memory twins: `fleet.rollout.memory`. For databases: `fleet.rollout.sql`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from edge_runtime.errors import UsageError
from fleet.rollout.evidence import Evidence
from fleet.rollout.inventory import Artefact, BoxFacts
from fleet.rollout.pairs import Window
from fleet.rollout.plan import RolloutPlan
from fleet.rollout.progress import BoxProgress, Report
from fleet.rollout.signals import Figures
from fleet.rollout.states import Aim, Counts, Recall, RolloutState, Transition
from fleet.rollout.verdicts import Record

T = TypeVar("T")


class ConflictError(UsageError):
    """Somebody else changed this rollout at the same moment; read it again and decide again."""

    def __init__(self, rollout: str) -> None:
        super().__init__(
            f"rollout {rollout} was changed by somebody else just now; look again",
            code="conflict",
            status=409,
        )


def unknown(rollout: str) -> UsageError:
    """The error for a rollout that is not there."""
    return UsageError(f"there is no rollout {rollout[:80]!r}", code="not_found", status=404)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout as it is stored. `strata` and `waves` are frozen when it begins."""

    id: str
    plan: RolloutPlan
    artefact: Artefact
    state: RolloutState
    filed_by: str
    filed_at_s: float
    strata: tuple[str, ...] = ()
    waves: int = 0


@dataclass(frozen=True, slots=True)
class Unpublished:
    """A document that is stored, and not known to be published."""

    box: str
    generation: int
    document: bytes


class Tx(Protocol):
    """One transaction. Lists that name a `limit` are bounded by it; order is stated."""

    def rollout(self, rollout: str) -> Rollout:
        """Raises `UsageError` when there is none."""

    def rollouts(self) -> list[Rollout]:
        """All of them, newest first."""

    def working(self) -> list[str]:
        """Ids of rollouts that a tick may have something to do for."""

    def add_rollout(self, rollout: Rollout) -> None:
        """A new one."""

    def put_state(self, rollout: str, state: RolloutState) -> None:
        """Raises `ConflictError` unless the stored version is one lower."""

    def begin(self, rollout: str, strata: Sequence[str], waves: int) -> None:
        """Freeze what is known only when it begins."""

    def rest(self, rollout: str) -> None:
        """A tick has nothing more to do for it, until its state changes."""

    def add_transitions(self, rollout: str, entries: Sequence[Transition]) -> None:
        """History is only ever added to."""

    def history(self, rollout: str) -> list[Transition]:
        """In order."""

    def facts(self, rollout: Rollout, now_s: float) -> list[BoxFacts]:
        """Of all active boxes that the target names. Costs up to a second for 10,000 boxes."""

    def add_boxes(self, rollout: str, boxes: Iterable[BoxProgress]) -> None:
        """Who takes part."""

    def box(self, rollout: str, box: str) -> BoxProgress | None:
        """One of those who take part."""

    def boxes(self, rollout: str, *, after: int = -1, limit: int = 1000) -> list[BoxProgress]:
        """Those who take part, by place."""

    def put_box(self, rollout: str, box: BoxProgress) -> None:
        """Replace a record."""

    def counts(self, rollout: str, wave: int) -> Counts:
        """Of one wave."""

    def waiting(self, rollout: str, upto_wave: int, limit: int) -> list[BoxProgress]:
        """Not offered yet, of waves 0 to `upto_wave`, by place."""

    def held_back(self, rollout: str, limit: int) -> list[BoxProgress]:
        """Not offered yet, of those held back, by place."""

    def recalled(self, rollout: str, recall: Recall, limit: int) -> list[BoxProgress]:
        """Offered the new one and to be given the old one, last offered first."""

    def returning(self, rollout: str) -> int:
        """How many were told to go back and have not said that they did."""

    def unfinished(self, rollout: str) -> bool:
        """Whether boxes were offered something and have not ended."""

    def lost(self, rollout: str) -> list[BoxProgress]:
        """Those given up on."""

    def news(self, rollout: str, limit: int) -> list[tuple[BoxProgress, Report]]:
        """Boxes whose newest report has not been used yet."""

    def quiet(
        self, rollout: str, heard_before_s: float, confirmed_after_s: float, limit: int
    ) -> list[tuple[BoxProgress, float]]:
        """Boxes last heard of before then, and when: working, or confirmed since; none twice."""

    def owed(self, rollout: str, serving_before_s: float, limit: int) -> list[BoxProgress]:
        """Boxes that owe a comparison and serve the change since before then."""

    def figures(self, rollout: Rollout, box: str, window: Window) -> Figures:
        """What a box reported over a stretch, of what the change is about."""

    def add_evidence(self, rollout: str, rows: Sequence[Evidence]) -> None:
        """Numbers them in this order."""

    def evidence(self, rollout: str, after: int = 0) -> list[Evidence]:
        """Rows above a number, in order."""

    def add_record(self, rollout: str, record: Record) -> int:
        """The verdict's number."""

    def records(self, rollout: str) -> list[Record]:
        """In order."""

    def want(self, rollout: Rollout, box: BoxProgress, aim: Aim, now_s: float) -> int | None:
        """Make and store the box's next document; its generation.

        None when the box is not this rollout's to change any more, or was revoked.
        """

    def unpublished(self, rollout: str, limit: int) -> list[Unpublished]:
        """Newest documents of boxes of this rollout that nobody is known to have published."""

    def mark_published(self, rollout: str, sent: Sequence[Unpublished]) -> None:
        """These were handed to the broker."""


class Store(Protocol):
    """Where rollouts are kept."""

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run in a transaction that is durable on return."""

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run work that changes nothing."""


class Transport(Protocol):
    """The link to boxes."""

    async def publish_want(self, box: str, document: bytes) -> None:
        """Hand a retained document to the broker. Raises `TransportError`."""
