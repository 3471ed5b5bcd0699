"""What people do with rollouts, for the API and the command line alike: plans in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from edge_runtime.errors import UsageError
from edge_runtime.stats.verdict import Verdict
from fleet.rollout.catalogue import Catalogue, resolved
from fleet.rollout.engine import RolloutEngine
from fleet.rollout.plan import RolloutPlan, parse_plan
from fleet.rollout.planner import Forecast, forecast
from fleet.rollout.progress import BoxProgress
from fleet.rollout.states import Action, Command, Counts, Phase, RolloutState, Transition
from fleet.rollout.store import Rollout, Store, Tx
from fleet.rollout.verdicts import Explanation, Record, Turn, explain, replay
from fleet.rollout.waves import HOLD_BACK


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class WaveView(_View):
    """Boxes of a wave by what became of them; `wave` counts from 1, 0 are those held back."""

    wave: int
    waiting: int
    open: int
    confirmed: int
    lost: int
    superseded: int


class HistoryView(_View):
    """One transition. `records` are the verdicts it rests on."""

    before: Phase
    after: Phase
    wave: int
    at_s: float
    actor: str
    reason: str
    gate: Verdict | None
    records: tuple[int, ...]


class VerdictView(_View):
    """One stored verdict."""

    id: int
    guard: str
    wave: int
    at_s: float
    verdict: Verdict
    reason: str
    numbers: dict[str, Any]
    rule: dict[str, Any]
    upto: int
    rows_sha256: str
    program: str


class RolloutSummary(_View):
    """A rollout in a list; `wave` counts from 1."""

    id: str
    name: str
    kind: str
    item: str = Field(description="What is rolled out.")
    digest: str
    phase: Phase
    wave: int
    waves: int
    since_s: float
    filed_by: str
    filed_at_s: float


class RolloutPage(RolloutSummary):
    """A rollout with its waves, history, newest verdict of each guard, and plan."""

    waves_by_status: list[WaveView]
    history: list[HistoryView]
    verdicts: list[VerdictView]
    plan: dict[str, Any]


class BoxView(_View):
    """A box in a rollout; `wave` counts from 1, 0 is held back."""

    box: str
    wave: int
    place: int
    stratum: str
    status: str
    aim: str
    generation: int
    partner: str | None
    events: tuple[str, ...]
    offered_at_s: float | None
    serving_at_s: float | None
    confirmed_at_s: float | None


class RolloutService:
    """See the module. `target_names`: what a plan's target may speak of."""

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        engine: RolloutEngine,
        clock: Callable[[], float],
        target_names: Mapping[str, type],
    ) -> None:
        self._store, self._catalogue, self._engine = store, catalogue, engine
        self._clock, self._names = clock, target_names

    async def file(self, text: str, actor: str) -> RolloutPage:
        """Check and store a plan (TOML). Raises `PlanError`, `UsageError`."""
        plan, artefact = resolved(parse_plan(text, self._names), self._catalogue)
        return await self.page(await self._engine.file(plan, artefact, actor))

    async def forecast(self, text: str) -> Forecast:
        """What the plan would come to now; stores nothing. Spreads are those measured before."""
        plan, artefact = resolved(parse_plan(text, self._names), self._catalogue)
        now = self._clock()
        asked = Rollout("forecast", plan, artefact, RolloutState(), "", now)
        facts = await self._store.read(lambda tx: tx.facts(asked, now))
        spreads = await self._store.read(lambda tx: measured_spreads(tx, plan))
        return forecast(plan, artefact, facts, spreads=spreads)

    async def order(self, rollout: str, action: Action, actor: str, reason: str) -> RolloutPage:
        """Give an order. Raises `UsageError` where the phase does not allow it."""
        await self._engine.order(rollout, Command(action, actor, reason))
        return await self.page(rollout)

    async def summaries(self) -> list[RolloutSummary]:
        """All rollouts, newest first."""
        found = await self._store.read(lambda tx: tx.rollouts())
        return [RolloutSummary(**_summary(one)) for one in found]

    async def page(self, rollout: str) -> RolloutPage:
        """One rollout. Raises `UsageError` when there is none."""
        return await self._store.read(lambda tx: _page(tx, rollout))

    async def boxes(self, rollout: str, *, after: int = -1, limit: int = 500) -> list[BoxView]:
        """Its boxes in the order of their offers, from behind place `after`."""
        found = await self._store.read(lambda tx: tx.boxes(rollout, after=after, limit=limit))
        return [_box(one) for one in found]

    async def verdicts(self, rollout: str) -> list[VerdictView]:
        """All its verdicts, in order."""
        found = await self._store.read(lambda tx: tx.records(rollout))
        return [VerdictView.model_validate(one) for one in found]

    async def explain(self, rollout: str, record: int | None = None) -> list[Explanation]:
        """Verdicts with the rows that tell why: one by its number, or each guard's newest."""
        return await self._store.read(lambda tx: _explain(tx, rollout, record))

    async def replay(self, rollout: str, text: str) -> tuple[Turn, ...]:
        """What the guards of another plan (TOML) would have said of this rollout's evidence."""
        guards = parse_plan(text, self._names).guards

        def work(tx: Tx) -> tuple[Turn, ...]:
            return replay(guards, tx.rollout(rollout).strata, tx.evidence(rollout))

        return await self._store.read(work)


def measured_spreads(tx: Tx, plan: RolloutPlan) -> dict[str, float]:
    """By guard, the spread of pairs in the newest rollout of the same thing that measured it."""
    mine = (plan.change.kind, plan.change.name)
    found: dict[str, float] = {}
    for one in tx.rollouts():
        if (one.plan.change.kind, one.plan.change.name) != mine:
            continue
        for record in reversed(tx.records(one.id)):
            guard = plan.guards.quality.get(record.guard)
            spread = record.numbers.get("spread")
            same = guard is not None and record.rule.get("figure") == guard.figure
            if same and spread and record.numbers.get("pairs", 0) >= 10:
                found.setdefault(record.guard, float(spread))
        if len(found) == len(plan.guards.quality):
            break
    return found


def _explain(tx: Tx, rollout: str, number: int | None) -> list[Explanation]:
    found, records = tx.rollout(rollout), tx.records(rollout)
    chosen: Sequence[Record] = list({one.guard: one for one in records}.values())
    if number is not None:
        chosen = [one for one in records if one.id == number]
        if not chosen:
            raise UsageError(
                f"rollout {rollout} has no verdict {number}", code="not_found", status=404
            )
    rows, guards = tx.evidence(rollout), found.plan.guards
    return [explain(guards, found.strata, one, rows) for one in chosen]


def _summary(one: Rollout) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.plan.name,
        "kind": one.plan.change.kind.value,
        "item": one.plan.change.name,
        "digest": one.plan.change.digest,
        "phase": one.state.phase,
        "wave": one.state.wave + 1,
        "waves": one.waves,
        "since_s": one.state.since_s,
        "filed_by": one.filed_by,
        "filed_at_s": one.filed_at_s,
    }


def _page(tx: Tx, rollout: str) -> RolloutPage:
    one = tx.rollout(rollout)
    waves = [_wave(wave, tx.counts(rollout, wave)) for wave in range(one.waves)]
    held = tx.counts(rollout, HOLD_BACK)
    if held.taking_part or held.superseded:
        waves.append(_wave(HOLD_BACK, held))
    newest = {record.guard: record for record in tx.records(rollout)}
    return RolloutPage(
        **_summary(one),
        waves_by_status=waves,
        history=[_history(entry) for entry in tx.history(rollout)],
        verdicts=[VerdictView.model_validate(record) for record in newest.values()],
        plan=one.plan.model_dump(mode="json"),
    )


def _wave(wave: int, counts: Counts) -> WaveView:
    return WaveView(wave=wave + 1, **asdict(counts))


def _history(entry: Transition) -> HistoryView:
    return HistoryView(**{**asdict(entry), "wave": entry.wave + 1})


def _box(one: BoxProgress) -> BoxView:
    view = BoxView.model_validate(one)
    return view.model_copy(update={"wave": one.wave + 1})
