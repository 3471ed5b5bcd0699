"""`Watch`: the one object the router holds. See `contract.WatchLike` for what each call means.

Rules
- State changes in the event loop only. Two tasks belong to `running()`: `edge-watch-judge` calls
  the frontier, `edge-watch-keeper` writes the state: at once after an alarm, its clearing or a
  trial's end, else every `save_interval_s` and at the end.
- An alarm suspends in the same call that raises it; the disk follows.
- A ledger that takes no more rows costs the comparison, not the request.

Example::

    watch = Watch(settings, frontiers, FileWatchStore(store / STATE_FILE), ledger=ledger)
    async with watch.running():
        ...
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence

import structlog

from edge_runtime.errors import EdgeError
from edge_runtime.ledger.rows import PPM, ComparedBy, Comparison, ppm
from edge_runtime.router.contract import FrontierLike
from edge_runtime.router.watch.compare import same_answer
from edge_runtime.router.watch.contract import (
    Alarm,
    AuditEnd,
    Compared,
    Decided,
    EventKind,
    Outcome,
    Pair,
    Sample,
    SliceRow,
    Terms,
    TrialPlan,
    TrialState,
    WatchEvent,
)
from edge_runtime.router.watch.drift import DriftWatch
from edge_runtime.router.watch.judge import Judge, Question
from edge_runtime.router.watch.settings import WatchSettings
from edge_runtime.router.watch.slices import DIMENSIONS, Labels, Slices, labels_of
from edge_runtime.router.watch.state import Watched, WatchState, WatchStore, read_state
from edge_runtime.router.watch.surroundings import Surroundings
from edge_runtime.router.watch.trial_book import TrialBook

log = structlog.get_logger("edge_runtime.watch")


class Watch:
    """See `WatchLike`. Reads its state when made; raises `ConfigError` for one it cannot read."""

    def __init__(
        self,
        settings: WatchSettings,
        frontiers: FrontierLike,
        store: WatchStore,
        around: Surroundings | None = None,
    ) -> None:
        self._settings = settings
        self._frontiers = frontiers
        self._store = store
        self._around = around or Surroundings()
        self._judge = Judge(
            frontiers,
            settings.audit,
            sleep=self._around.sleep,
            waiting_changed=self._around.listener.audits_waiting,
        )
        self._certificates: OrderedDict[str, DriftWatch] = OrderedDict()
        self._slices = Slices(settings.max_slices)
        self._trials = TrialBook(
            settings.trial,
            self._judge,
            digest_of=self._around.digest_of,
            draw=self._around.draw,
            ended=self._trial_ended,
        )
        self._events: deque[WatchEvent] = deque(maxlen=settings.max_events)
        self._urgent = asyncio.Event()
        self._writing = threading.Lock()
        self._restore(read_state(store.load()))

    def change(self, settings: WatchSettings) -> None:
        """Watch by other settings from now on, with what is known already, as after a restart."""
        before, self._settings = self._settings, settings
        self._judge.change(settings.audit)
        self._trials.change(settings.trial)
        self._slices.max_values = settings.max_slices
        self._events = deque(self._events, maxlen=settings.max_events)
        if (settings.drift, settings.audit) != (before.drift, before.audit):
            for one in self.state().certificates:
                self._watch_again(one)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Audit and save as long as the block lasts; saves once more at its end."""
        keeper = asyncio.create_task(self._keep(), name="edge-watch-keeper")
        try:
            async with self._judge.running():
                yield
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
            await self.save()

    async def save(self) -> None:
        """Write the state now. A disk that fails is logged; the next save tries again."""
        document = self.state().to_bytes()
        try:
            await asyncio.to_thread(self._write, document)
        except OSError as error:
            log.warning("the watch's state was not saved", action="watch_save", error=str(error))

    def _write(self, document: bytes) -> None:
        # A save that was cancelled still runs in its thread: the next one waits for it.
        with self._writing:
            self._store.save(document)

    def certified(self, terms: Terms) -> None:
        """See `WatchLike.certified`."""
        known = self._certificates.get(terms.certificate)
        if known is None:
            known = DriftWatch(terms, self._settings.drift, self._settings.audit)
            self._certificates[terms.certificate] = known
        self._certificates.move_to_end(terms.certificate)
        while len(self._certificates) > self._settings.max_certificates:
            quiet = [name for name, one in self._certificates.items() if one.alarm is None]
            del self._certificates[quiet[0] if quiet else next(iter(self._certificates))]

    def suspended(self, certificate: str) -> str | None:
        """See `WatchLike.suspended`."""
        watch = self._certificates.get(certificate)
        if watch is None or watch.alarm is None or not watch.alarm.suspends:
            return None
        return f"{watch.alarm.signal} drift: {watch.alarm.detail}"

    def alarms(self) -> tuple[Alarm, ...]:
        """Alarms that stand."""
        return tuple(one.alarm for one in self._certificates.values() if one.alarm is not None)

    def observe(self, decided: Decided) -> Alarm | None:
        """See `WatchLike.observe`."""
        if not decided.again:
            self._slices.decided(labels_of(decided.where), escalated=not decided.kept)
        watch = self._certificates.get(decided.certificate)
        if watch is None:
            return None
        alarm = watch.observe(
            score=decided.score, tokens=decided.tokens, at_us=self._around.clock()
        )
        return self._raised(alarm)

    def maybe_audit(self, sample: Sample) -> bool:
        """See `WatchLike.maybe_audit`."""
        share = self._settings.audit.share
        if not sample.may_leave or not self._frontiers.names():
            return False
        if self._around.draw() >= share:
            return False
        labels = labels_of(sample.where)

        def answered(answer: str | None, end: AuditEnd) -> None:
            self._audited(sample, labels, answer, end)

        if self._judge.offer(Question(sample.call, sample.read, answered)):
            return True
        self._around.listener.audited(sample.where.task, AuditEnd.DROPPED)
        return False

    def compared(self, compared: Compared) -> bool:
        """See `WatchLike.compared`."""
        agreed = same_answer(compared.local, compared.frontier, compared.how)
        self._keep_comparison(compared, ComparedBy.ESCALATED, agreed=agreed, share_ppm=PPM)
        return agreed

    def plan_trial(self, model: str) -> TrialPlan | None:
        """See `WatchLike.plan_trial`."""
        return self._trials.plan(model)

    def pair(self, pair: Pair) -> Outcome:
        """See `WatchLike.pair`."""
        return self._trials.pair(pair)

    def trials(self) -> tuple[TrialState, ...]:
        """Every trial that is remembered, oldest first."""
        return self._trials.states()

    def clear(self, certificate: str, by: str) -> bool:
        """See `WatchLike.clear`."""
        watch = self._certificates.get(certificate)
        if watch is None or not watch.clear():
            return False
        self._tell(EventKind.CLEARED, watch.terms.task, f"by {by}", certificate=certificate)
        return True

    def slices(self) -> Sequence[SliceRow]:
        """See `WatchLike.slices`."""
        return self._slices.rows()

    def events(self) -> Sequence[WatchEvent]:
        """See `WatchLike.events`."""
        return tuple(self._events)

    def state(self) -> WatchState:
        """Everything that is kept over a restart."""
        return WatchState(
            schema="edge-runtime/watch/1",
            certificates=[
                Watched(terms=one.terms, state=one.state()) for one in self._certificates.values()
            ],
            slices=self._slices.counts,
            trials=list(self._trials.states()),
        )

    def _restore(self, state: WatchState) -> None:
        for one in state.certificates:
            self._watch_again(one)
        for dimension in DIMENSIONS:
            self._slices.counts[dimension] = dict(state.slices.get(dimension, {}))
        self._trials.restore(state.trials)

    def _watch_again(self, one: Watched) -> None:
        watch = DriftWatch(one.terms, self._settings.drift, self._settings.audit)
        watch.restore(one.state)
        self._certificates[one.terms.certificate] = watch

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.save_interval_s):
                    await self._urgent.wait()
            self._urgent.clear()
            await self.save()

    def _audited(self, sample: Sample, labels: Labels, answer: str | None, end: AuditEnd) -> None:
        if answer is not None:
            agreed = same_answer(sample.answer, answer, sample.how)
            end = AuditEnd.AGREED if agreed else AuditEnd.DIFFERED
            self._slices.audited(labels, wrong=not agreed)
            share_ppm = max(1, round(self._settings.audit.share * PPM))
            self._keep_comparison(sample, ComparedBy.AUDIT, agreed=agreed, share_ppm=share_ppm)
            watch = self._certificates.get(sample.certificate)
            if watch is not None:
                self._raised(watch.audited(wrong=not agreed, at_us=self._around.clock()))
        self._around.listener.audited(sample.where.task, end)

    def _keep_comparison(
        self, one: Sample | Compared, source: ComparedBy, *, agreed: bool, share_ppm: int
    ) -> None:
        if self._around.ledger is None:
            return
        try:
            self._around.ledger.compare(
                Comparison(
                    at_us=self._around.clock(),
                    request_id=one.request_id,
                    agreed=agreed,
                    source=source,
                    share_ppm=share_ppm,
                    score_ppm=ppm(one.score),
                    task=one.where.task,
                    tenant=one.where.tenant,
                    model_digest=one.model_digest,
                    certificate=one.certificate,
                )
            )
        except (EdgeError, ValueError) as error:
            log.warning("a comparison was not kept", action="watch_compare", error=str(error))

    def _trial_ended(self, state: TrialState) -> None:
        promote = state.outcome is Outcome.PROMOTE
        kind = EventKind.TRIAL_PROMOTE if promote else EventKind.TRIAL_REVERT
        self._tell(kind, state.model, state.why, trial=state.trial, candidate=state.candidate)

    def _raised(self, alarm: Alarm | None) -> Alarm | None:
        if alarm is not None:
            self._tell(
                EventKind.ALARM,
                alarm.task,
                alarm.detail,
                certificate=alarm.certificate,
                signal=alarm.signal.value,
                method=alarm.method.value,
            )
        return alarm

    def _tell(self, kind: EventKind, subject: str, detail: str, **values: str) -> None:
        event = WatchEvent(self._around.clock(), kind, subject, detail, values)
        self._events.append(event)
        self._urgent.set()
        log.warning("watch", action=f"watch_{kind}", subject=subject, detail=detail, **values)
        self._around.listener.event(event)
