"""In-memory twins of the store and the transport, with faults to order.

`Fleet` is the world: boxes and what they report; it survives a crash of the control host. A
`MemoryStore` loses what was not committed when its fault strikes, as a database would. Nothing is
signed here: a want is its payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from edge_runtime.agent.protocol import Want
from fleet.expr import compile_expression
from fleet.rollout.evidence import Evidence
from fleet.rollout.inventory import BoxFacts
from fleet.rollout.pairs import Window
from fleet.rollout.progress import LOST, OPEN, BoxProgress, PairState, Report, Status
from fleet.rollout.signals import Event, Figures
from fleet.rollout.states import ENDED, Aim, Counts, Phase, Recall, RolloutState, Transition
from fleet.rollout.store import ConflictError, Rollout, Tx, Unpublished, unknown
from fleet.rollout.verdicts import Record
from fleet.rollout.wants import amended, item_of, may_change
from fleet.rollout.waves import HOLD_BACK

T = TypeVar("T")
Fault = Callable[[str], None]
"""Called with the name of a boundary; may raise, as a power cut would."""
_GONE: Final = object()


def no_fault(_boundary: str) -> None:
    """Nothing ever goes wrong."""


@dataclass
class Fleet:
    """Boxes as the registry would know them. `values` are what target expressions see."""

    facts: dict[str, BoxFacts] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: dict[str, type] = field(default_factory=lambda: {"principal": str})
    reports: dict[str, Report] = field(default_factory=dict)
    heard_s: dict[str, float] = field(default_factory=dict)
    figures: Callable[[str, Window], Figures] = field(default=lambda _box, _window: {})

    def report(self, box: str, report: Report, now_s: float) -> None:
        """A box says something."""
        self.reports[box] = report
        self.heard_s[box] = now_s


class MemoryStore:
    """A store in dictionaries; the boundaries of its faults: `begin`, `commit`, `committed`."""

    def __init__(self, fleet: Fleet, fault: Fault = no_fault) -> None:
        self.fleet, self.fault = fleet, fault
        self.tables: dict[str, dict[Any, Any]] = {
            name: {}
            for name in (
                "rollouts", "resting", "history", "boxes", "evidence", "records", "wants",
                "published",
            )
        }  # fmt: skip

    async def write(self, work: Callable[[Tx], T]) -> T:
        """One transaction; undone when `work` or the fault before the commit raises."""
        self.fault("begin")
        tx = MemoryTx(self)
        try:
            found = work(tx)
            self.fault("commit")
        except BaseException:
            tx.undo()
            raise
        self.fault("committed")
        return found

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Work that changes nothing."""
        return work(MemoryTx(self))


class MemoryTx:
    """One transaction on a `MemoryStore`; see `Tx`."""

    def __init__(self, store: MemoryStore) -> None:
        self._tables, self._fleet = store.tables, store.fleet
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []

    def _put(self, table: str, key: Any, value: Any) -> None:
        rows = self._tables[table]
        self._undo.append((rows, key, rows.get(key, _GONE)))
        rows[key] = value

    def undo(self) -> None:
        """Take everything back."""
        for rows, key, old in reversed(self._undo):
            if old is _GONE:
                rows.pop(key, None)
            else:
                rows[key] = old

    # Rollouts.

    def rollout(self, rollout: str) -> Rollout:
        found = self._tables["rollouts"].get(rollout)
        if found is None:
            raise unknown(rollout)
        assert isinstance(found, Rollout)
        return found

    def rollouts(self) -> list[Rollout]:
        found = list(self._tables["rollouts"].values())
        return sorted(found, key=lambda one: (-one.filed_at_s, one.id))

    def working(self) -> list[str]:
        return [
            one.id
            for one in reversed(self.rollouts())
            if one.state.phase is not Phase.DRAFT and one.id not in self._resting()
        ]

    def _resting(self) -> set[str]:
        return {one for one, version in self._tables["resting"].items()
                if self.rollout(one).state.version == version}  # fmt: skip

    def add_rollout(self, rollout: Rollout) -> None:
        self._put("rollouts", rollout.id, rollout)

    def put_state(self, rollout: str, state: RolloutState) -> None:
        found = self.rollout(rollout)
        if found.state.version != state.version - 1:
            raise ConflictError(rollout)
        self._put("rollouts", rollout, replace(found, state=state))

    def begin(self, rollout: str, strata: Sequence[str], waves: int) -> None:
        found = replace(self.rollout(rollout), strata=tuple(strata), waves=waves)
        self._put("rollouts", rollout, found)

    def rest(self, rollout: str) -> None:
        self._put("resting", rollout, self.rollout(rollout).state.version)

    def add_transitions(self, rollout: str, entries: Sequence[Transition]) -> None:
        self._put("history", rollout, [*self.history(rollout), *entries])

    def history(self, rollout: str) -> list[Transition]:
        return list(self._tables["history"].get(rollout, ()))

    # Boxes.

    def facts(self, rollout: Rollout, now_s: float) -> list[BoxFacts]:
        del now_s
        target = compile_expression(rollout.plan.target.boxes, self._fleet.names)
        found = []
        for box, facts in sorted(self._fleet.facts.items()):
            if target.holds({"principal": box, **self._fleet.values.get(box, {})}):
                found.append(replace(facts, taken_by=self._taken_by(rollout, box)))
        return found

    def _taken_by(self, rollout: Rollout, box: str) -> str | None:
        mine = (rollout.plan.change.kind, rollout.plan.change.name)
        for other in self.rollouts():
            key = (other.plan.change.kind, other.plan.change.name)
            if other.id == rollout.id or key != mine or other.state.phase in ENDED:
                continue
            if self.box(other.id, box) is not None:
                return other.id
        return None

    def add_boxes(self, rollout: str, boxes: Iterable[BoxProgress]) -> None:
        for box in boxes:
            self.put_box(rollout, box)

    def box(self, rollout: str, box: str) -> BoxProgress | None:
        found = self._tables["boxes"].get((rollout, box))
        assert found is None or isinstance(found, BoxProgress)
        return found

    def boxes(self, rollout: str, *, after: int = -1, limit: int = 1000) -> list[BoxProgress]:
        return [one for one in self._of(rollout) if one.place > after][:limit]

    def put_box(self, rollout: str, box: BoxProgress) -> None:
        self._put("boxes", (rollout, box.box), box)

    def _of(self, rollout: str) -> list[BoxProgress]:
        found = [one for (owner, _), one in self._tables["boxes"].items() if owner == rollout]
        return sorted(found, key=lambda one: one.place)

    def counts(self, rollout: str, wave: int) -> Counts:
        mine = [one.status for one in self._of(rollout) if one.wave == wave]
        return Counts(
            waiting=sum(one is Status.WAITING for one in mine),
            open=sum(one in OPEN for one in mine),
            confirmed=sum(one is Status.CONFIRMED for one in mine),
            lost=sum(one in LOST for one in mine),
            superseded=sum(one is Status.SUPERSEDED for one in mine),
        )

    def waiting(self, rollout: str, upto_wave: int, limit: int) -> list[BoxProgress]:
        return [
            one
            for one in self._of(rollout)
            if one.status is Status.WAITING and 0 <= one.wave <= upto_wave
        ][:limit]

    def held_back(self, rollout: str, limit: int) -> list[BoxProgress]:
        return [
            one
            for one in self._of(rollout)
            if one.status is Status.WAITING and one.wave == HOLD_BACK
        ][:limit]

    def recalled(self, rollout: str, recall: Recall, limit: int) -> list[BoxProgress]:
        if recall is Recall.NONE:
            return []
        found = [
            one
            for one in self._of(rollout)
            if one.generation
            and one.aim is Aim.NEW
            and one.status is not Status.SUPERSEDED
            and (recall is Recall.ALL or one.status is not Status.CONFIRMED)
        ]
        return found[::-1][:limit]

    def returning(self, rollout: str) -> int:
        return sum(one.status is Status.RETURNING for one in self._of(rollout))

    def unfinished(self, rollout: str) -> bool:
        busy = {*OPEN, Status.RETURNING}
        return any(one.status in busy for one in self._of(rollout))

    def lost(self, rollout: str) -> list[BoxProgress]:
        return [one for one in self._of(rollout) if one.status in LOST]

    def news(self, rollout: str, limit: int) -> list[tuple[BoxProgress, Report]]:
        found = []
        for one in self._of(rollout):
            report = self._fleet.reports.get(one.box)
            if report is None or not one.generation or report == one.seen:
                continue
            if report.generation >= one.generation and one.status is not Status.SUPERSEDED:
                found.append((one, report))
        return found[:limit]

    def quiet(
        self, rollout: str, heard_before_s: float, confirmed_after_s: float, limit: int
    ) -> list[tuple[BoxProgress, float]]:
        found = [
            (one, self._fleet.heard_s.get(one.box, 0.0))
            for one in self._of(rollout)
            if one.status is Status.WORKING
            or (one.status is Status.CONFIRMED and (one.confirmed_at_s or 0) >= confirmed_after_s)
        ]
        return [
            (one, heard)
            for one, heard in found
            if heard < heard_before_s and Event.UNREACHABLE not in one.events
        ][:limit]

    def owed(self, rollout: str, serving_before_s: float, limit: int) -> list[BoxProgress]:
        return [
            one
            for one in self._of(rollout)
            if one.pair is PairState.OWED
            and one.serving_at_s is not None
            and one.serving_at_s <= serving_before_s
        ][:limit]

    def figures(self, rollout: Rollout, box: str, window: Window) -> Figures:
        del rollout
        return self._fleet.figures(box, window)

    # Evidence and verdicts.

    def add_evidence(self, rollout: str, rows: Sequence[Evidence]) -> None:
        known = self.evidence(rollout)
        start = len(known) + 1
        numbered = [replace(row, seq=seq) for seq, row in enumerate(rows, start)]
        self._put("evidence", rollout, [*known, *numbered])

    def evidence(self, rollout: str, after: int = 0) -> list[Evidence]:
        return list(self._tables["evidence"].get(rollout, ()))[after:]

    def add_record(self, rollout: str, record: Record) -> int:
        known = self.records(rollout)
        self._put("records", rollout, [*known, replace(record, id=len(known) + 1)])
        return len(known) + 1

    def records(self, rollout: str) -> list[Record]:
        return list(self._tables["records"].get(rollout, ()))

    # Documents.

    def want(self, rollout: Rollout, box: BoxProgress, aim: Aim, now_s: float) -> int | None:
        known: list[tuple[str, Want]] = self._tables["wants"].get(box.box, [])
        newest = known[-1][1] if known else None
        if not may_change(newest, rollout.plan, box, rollout.id):
            return None
        generation = newest.generation + 1 if newest is not None else 1
        item = item_of(
            rollout.plan, rollout.artefact, box, aim,
            rollout=rollout.id, generation=generation, now_s=now_s,
        )  # fmt: skip
        want = amended(
            newest, rollout.plan, item,
            principal=box.box, generation=generation, issued_s=int(now_s), sources=(),
        )  # fmt: skip
        self._put("wants", box.box, [*known, (rollout.id, want)])
        return generation

    def unpublished(self, rollout: str, limit: int) -> list[Unpublished]:
        found = []
        for box, known in sorted(self._tables["wants"].items()):
            owner, want = known[-1]
            if owner == rollout and self._tables["published"].get(box, 0) < want.generation:
                found.append(Unpublished(box, want.generation, want.payload()))
        return found[:limit]

    def mark_published(self, rollout: str, sent: Sequence[Unpublished]) -> None:
        del rollout
        for one in sent:
            self._put("published", one.box, one.generation)


class MemoryTransport:
    """Remembers what was published; the boundaries of its faults: `publish`, `sent`."""

    def __init__(self, fault: Fault = no_fault) -> None:
        self.fault = fault
        self.sent: list[tuple[str, Want]] = []

    async def publish_want(self, box: str, document: bytes) -> None:
        """Keep it."""
        self.fault("publish")
        self.sent.append((box, Want.parse(document)))
        self.fault("sent")
