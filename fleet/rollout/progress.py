"""One box in one rollout: what was asked of it, what it said, and what guards may know of that.

Rules
- Pure: a record and a report in, the new record and rows of evidence out.
- A report about an older generation than the one asked for changes nothing. One about a newer one
  means that another rollout took the box over.
- A box is exposed when it first reports to have begun (fetching or later) or to have given up for
  a reason of its own. Waiting for a window exposes nobody.
- A box that was exposed is watched for silence until its bake time is over; after that, whatever
  switches boxes off at night is not held against the change.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any, Final

from edge_runtime.agent.protocol import BoxState, FailureCode, FailureKind
from fleet.rollout.evidence import Evidence, Sort
from fleet.rollout.signals import Event
from fleet.rollout.states import Aim


class Status(enum.StrEnum):
    """What the control host makes of it."""

    WAITING = "waiting"
    OFFERED = "offered"
    WORKING = "working"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    REVERTED = "reverted"
    STUCK = "stuck"
    UNREACHABLE = "unreachable"
    SUPERSEDED = "superseded"
    RETURNING = "returning"
    RETURNED = "returned"


OPEN: Final = frozenset({Status.OFFERED, Status.WORKING})
LOST: Final = frozenset({Status.FAILED, Status.REVERTED, Status.STUCK, Status.UNREACHABLE})
UNTOUCHED: Final = frozenset({Status.WAITING, Status.SUPERSEDED})
BACK: Final = frozenset({Status.RETURNING, Status.RETURNED})

_NOT_BEGUN: Final = frozenset(
    {BoxState.IDLE, BoxState.OFFERED, BoxState.ACCEPTED, BoxState.DEFERRED, BoxState.SUPERSEDED}
)
_NOT_ITS_FAULT: Final = frozenset({FailureCode.CANCELLED, FailureCode.DEADLINE})
_STATUS: Final = {
    BoxState.FETCHING: Status.WORKING,
    BoxState.STAGED: Status.WORKING,
    BoxState.ACTIVATING: Status.WORKING,
    BoxState.PROBATION: Status.WORKING,
    BoxState.CONFIRMED: Status.CONFIRMED,
    BoxState.REVERTING: Status.WORKING,
    BoxState.REVERTED: Status.REVERTED,
    BoxState.SUPERSEDED: Status.SUPERSEDED,
}


@dataclass(frozen=True, slots=True)
class Report:
    """What a box said of the thing that is rolled out."""

    generation: int
    state: BoxState
    failure_kind: FailureKind | None = None
    failure_code: FailureCode | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """What a box served before, as far as it can be asked for again."""

    digest: str
    release: int
    release_floor: int
    bytes_full: int


class PairState(enum.StrEnum):
    """Whether a box still owes its comparison."""

    NONE = "none"
    OWED = "owed"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class BoxProgress:
    """A box's record. `generation` 0 and times of None: not yet. `seen`: the last report used.

    `base` is what it served when the rollout began, `base_generation` the generation that had
    asked for it (0: nobody had).
    """

    box: str
    stratum: str
    wave: int
    place: int
    size_bytes: int
    partner: str | None = None
    base: Base | None = None
    base_generation: int = 0
    status: Status = Status.WAITING
    aim: Aim = Aim.NEW
    generation: int = 0
    offered_at_s: float | None = None
    exposed_at_s: float | None = None
    serving_at_s: float | None = None
    confirmed_at_s: float | None = None
    events: tuple[str, ...] = ()
    pair: PairState = PairState.NONE
    seen: Report | None = None


Outcome = tuple[BoxProgress, tuple[Evidence, ...]]


def offered(box: BoxProgress, aim: Aim, generation: int, now_s: float) -> BoxProgress:
    """A document of `generation` was made for it."""
    assert generation > box.generation
    if aim is Aim.OLD:
        return replace(
            box, aim=aim, generation=generation, status=Status.RETURNING, pair=PairState.DONE,
            seen=None,
        )  # fmt: skip
    pair = PairState.NONE if box.partner is None else PairState.OWED
    if box.pair is PairState.DONE:  # asked once more, but compared only once
        pair = PairState.DONE
    return replace(
        box, aim=aim, generation=generation, status=Status.OFFERED, offered_at_s=now_s, pair=pair,
        seen=None,
    )  # fmt: skip


def reopened(box: BoxProgress) -> BoxProgress:
    """May be offered again: it gave up, or was not heard of, before anything changed."""
    retry = box.status is Status.FAILED or (
        box.status is Status.UNREACHABLE and box.serving_at_s is None
    )
    return replace(box, status=Status.WAITING) if retry else box


def reported(box: BoxProgress, report: Report, now_s: float) -> Outcome:
    """Take a report in."""
    if report.generation < box.generation or report == box.seen or not box.generation:
        return box, ()
    if report.generation > box.generation:
        return replace(box, status=Status.SUPERSEDED, pair=PairState.DONE, seen=report), ()
    box = replace(box, seen=report)
    if box.aim is Aim.OLD:
        back = report.state in (BoxState.CONFIRMED, BoxState.PROBATION, BoxState.IDLE)
        return (replace(box, status=Status.RETURNED) if back else box), ()
    rows: list[Evidence] = []
    if _begun(report) and box.exposed_at_s is None:
        box = replace(box, exposed_at_s=now_s)
        rows.append(Evidence(Sort.EXPOSED, box.box, box.wave, now_s, {"stratum": box.stratum}))
    box = replace(box, status=_status(report))
    if report.state in (BoxState.PROBATION, BoxState.CONFIRMED) and box.serving_at_s is None:
        box = replace(box, serving_at_s=now_s)
    if report.state is BoxState.CONFIRMED and box.confirmed_at_s is None:
        box = replace(box, confirmed_at_s=now_s)
    detail = report.failure_code.value if report.failure_code is not None else ""
    for name in _events(report):
        box, more = _happened(box, name, detail, now_s)
        rows += more
    return box, tuple(rows)


def watched(box: BoxProgress, bake_s: float, now_s: float) -> bool:
    """Whether its silence would count."""
    if box.aim is not Aim.NEW or box.exposed_at_s is None or Event.UNREACHABLE in box.events:
        return False
    if box.status is Status.WORKING:
        return True
    return box.status is Status.CONFIRMED and now_s <= (box.confirmed_at_s or 0.0) + bake_s


def fell_silent(box: BoxProgress, silent_s: float, now_s: float) -> Outcome:
    """It was not heard of for `silent_s`, too long, while it was watched."""
    box, rows = _happened(box, Event.UNREACHABLE, f"silent for {silent_s:.0f} s", now_s)
    return replace(box, status=Status.UNREACHABLE), rows


def _begun(report: Report) -> bool:
    if report.state is BoxState.FAILED:
        return report.failure_code not in _NOT_ITS_FAULT
    return report.state not in _NOT_BEGUN


def _status(report: Report) -> Status:
    if report.state is BoxState.FAILED:
        return {
            FailureKind.STUCK: Status.STUCK,
            FailureKind.REVERTED: Status.REVERTED,
        }.get(report.failure_kind or FailureKind.NO_CHANGE, Status.FAILED)
    return _STATUS.get(report.state, Status.OFFERED)


def _events(report: Report) -> tuple[str, ...]:
    found = []
    if report.failure_code is FailureCode.CRASHES:
        found.append(Event.CRASHED)
    if report.failure_code is FailureCode.REFUSED:
        found.append(Event.REFUSED)
    if report.failure_kind is FailureKind.STUCK:
        found.append(Event.STUCK)
    if (
        report.state in (BoxState.REVERTING, BoxState.REVERTED)
        or report.failure_kind is FailureKind.REVERTED
    ):
        found.append(Event.REVERTED)
    if report.state is BoxState.FAILED and report.failure_code not in _NOT_ITS_FAULT:
        found.append(Event.FAILED)
    return tuple(found)


def _happened(box: BoxProgress, event: str, detail: str, now_s: float) -> Outcome:
    if event in box.events:
        return box, ()
    data: dict[str, Any] = {"event": event, "detail": detail}
    row = Evidence(Sort.EVENT, box.box, box.wave, now_s, data)
    return replace(box, events=(*box.events, event)), (row,)
