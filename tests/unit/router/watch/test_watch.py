"""The watch as the router holds it: audits, alarms, trials, and restarts."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.errors import ConfigError
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.rows import ComparedBy, Purpose, Tokens
from edge_runtime.router.contract import (
    FrontierCall,
    FrontierChunk,
    FrontierError,
    FrontierReply,
    FrontierWhy,
    Payer,
)
from edge_runtime.router.watch.contract import (
    AuditEnd,
    Compared,
    Decided,
    EventKind,
    HowToCompare,
    Outcome,
    Pair,
    Sample,
    Slice,
    Terms,
    WatchEvent,
    WatchLike,
)
from edge_runtime.router.watch.judge import AUDIT_SCOPE, Again, after_failure
from edge_runtime.router.watch.settings import (
    AuditSettings,
    DriftSettings,
    TrialSettings,
    WatchSettings,
)
from edge_runtime.router.watch.state import FileWatchStore, MemoryWatchStore, read_state
from edge_runtime.router.watch.surroundings import Surroundings
from edge_runtime.router.watch.watch import Watch

CERTIFICATE = "c" * 64
TERMS = Terms(
    CERTIFICATE, "intent", "d" * 64, 0.05, 0.1, 0.25, 0.75, 2000,
    tuple(round(0.1 * place, 1) for place in range(1, 10)), "gold",
)  # fmt: skip
WHERE = Slice(task="intent", tenant="shop", prompt_tokens=12, text="what is my balance")


class Frontiers:
    """Answers from a script: a text, or why not. Keeps every call."""

    def __init__(self, *script: str | FrontierError, up: bool = True) -> None:
        self.script = list(script)
        self.calls: list[FrontierCall] = []
        self.up = up

    def names(self) -> tuple[str, ...]:
        return ("big",)

    def available(self, order: tuple[str, ...]) -> bool:
        return self.up

    async def complete(self, call: FrontierCall) -> FrontierReply:
        self.calls.append(call)
        answer = self.script.pop(0) if self.script else "balance"
        if isinstance(answer, FrontierError):
            raise answer
        return FrontierReply(
            frontier="big", model="big", body={"answer": answer}, tokens=Tokens(1, 0, 1),
            cost_nano=1, tries=1, first_token_s=0.1, total_s=0.1,
        )  # fmt: skip

    async def stream(self, call: FrontierCall) -> AsyncGenerator[FrontierChunk, None]:
        raise AssertionError("audits do not stream")
        yield


class Sleeper:
    """Sleeps until it is woken; counts what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.wake = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.wake.wait()


class Listener:
    def __init__(self) -> None:
        self.events: list[WatchEvent] = []
        self.ends: list[AuditEnd] = []
        self.waiting: list[int] = []

    def event(self, event: WatchEvent) -> None:
        self.events.append(event)

    def audited(self, task: str, end: AuditEnd) -> None:
        assert task == "intent"
        self.ends.append(end)

    def audits_waiting(self, count: int) -> None:
        self.waiting.append(count)


def read(body: Mapping[str, Any]) -> str:
    if body["answer"] == "garbage":
        raise ValueError("no label")
    return str(body["answer"])


def call(number: int = 0, tokens: int = 20) -> FrontierCall:
    return FrontierCall(
        body={"messages": []},
        payer=Payer(f"r{number}", f"t{number}", "shop", "search"),
        order=("big",),
        prompt_tokens=tokens,
        max_output_tokens=10,
        reason="audit",
        deadline_s=1.0,
        accept=lambda _: None,
    )


def sample(number: int = 0, answer: str = "balance", **changes: Any) -> Sample:
    fine: dict[str, Any] = {
        "where": WHERE,
        "request_id": f"r{number}",
        "certificate": CERTIFICATE,
        "model_digest": "d" * 64,
        "score": 0.9,
        "answer": answer,
        "how": HowToCompare.LABEL,
        "read": read,
        "call": call(number),
        "may_leave": True,
    }
    return Sample(**{**fine, **changes})


def decided(score: float | None = 0.9, certificate: str = CERTIFICATE) -> Decided:
    kept = score is not None and score >= 0.25
    return Decided(where=WHERE, certificate=certificate, score=score, kept=kept, tokens=30)


class Box:
    """A watch with everything it is handed."""

    def __init__(
        self,
        *script: str | FrontierError,
        up: bool = True,
        store: MemoryWatchStore | None = None,
        **settings: Any,
    ) -> None:
        self.frontiers = Frontiers(*script, up=up)
        self.ledger = MemoryLedger(lambda: 7)
        self.store = store or MemoryWatchStore()
        self.listener = Listener()
        self.sleeper = Sleeper()
        self.draws = [0.0]
        self.digests: dict[str, str] = {}
        fine: dict[str, Any] = {
            "audit": AuditSettings(share=0.5),
            "drift": DriftSettings(tokens_mean=30.0),
        }
        self.watch = Watch(
            WatchSettings(**{**fine, **settings}),
            self.frontiers,
            self.store,
            Surroundings(
                ledger=self.ledger,
                digest_of=self.digests.get,
                listener=self.listener,
                clock=lambda: 7,
                draw=lambda: self.draws[0],
                sleep=self.sleeper,
            ),
        )
        self.watch.certified(TERMS)

    async def until(self, ready: Any) -> None:
        """Let the tasks run until something is so; a bound instead of a wait."""
        for _ in range(2000):
            if ready():
                return
            await asyncio.sleep(0)
        raise AssertionError("it never came")


def rows(box: Box, dimension: str = "task") -> tuple[int, int, int, int]:
    row = next(one for one in box.watch.slices() if one.dimension == dimension)
    return row.requests, row.escalated, row.audited, row.wrong


async def test_a_kept_answer_that_is_drawn_is_held_against_the_frontier() -> None:
    box = Box("balance", "transfer", "garbage")
    held: WatchLike = box.watch
    async with box.watch.running():
        for number in range(3):
            assert held.maybe_audit(sample(number))
        await box.until(lambda: len(box.listener.ends) == 3)
    assert box.listener.ends == [AuditEnd.AGREED, AuditEnd.DIFFERED, AuditEnd.UNREADABLE]
    assert rows(box) == (0, 0, 2, 1)
    assert [(one.agreed, one.source, one.share_ppm, one.score_ppm, one.task)
            for one in box.ledger.comparisons] == [
        (True, ComparedBy.AUDIT, 500_000, 900_000, "intent"),
        (False, ComparedBy.AUDIT, 500_000, 900_000, "intent"),
    ]  # fmt: skip
    asked = box.frontiers.calls[0]
    assert (asked.purpose, asked.deadline_s, asked.accept) == (Purpose.AUDIT, None, None)
    assert asked.payer.scopes == ("box", "tenant:shop", "endpoint:search", AUDIT_SCOPE)
    assert box.listener.waiting[-1] == 0


async def test_what_is_not_drawn_or_must_not_leave_is_not_audited() -> None:
    box = Box()
    assert not box.watch.maybe_audit(sample(may_leave=False))
    box.draws[0] = 0.5
    assert not box.watch.maybe_audit(sample())
    async with box.watch.running():
        await asyncio.sleep(0)
    assert box.frontiers.calls == []


async def test_audits_wait_while_the_frontier_is_out() -> None:
    out = FrontierError(FrontierWhy.OUT_OF_CREDIT, "no credit", retry_after_s=99.0)
    box = Box(out, "balance", up=False)
    async with box.watch.running():
        box.watch.maybe_audit(sample())
        await box.until(lambda: box.sleeper.asked == [30.0])
        box.frontiers.up = True
        box.sleeper.wake.set()
        await box.until(lambda: box.listener.ends == [AuditEnd.AGREED])
    assert box.sleeper.asked == [30.0, 99.0]
    assert len(box.frontiers.calls) == 2


async def test_a_question_that_fails_otherwise_is_given_up_and_holds_nobody_up() -> None:
    slow = FrontierError(FrontierWhy.TIMEOUT, "too slow")
    wrong = FrontierError(FrontierWhy.BAD_REQUEST, "no such field")
    box = Box(slow, "balance", slow, wrong, audit=AuditSettings(share=1.0, max_tries=2))
    box.sleeper.wake.set()
    async with box.watch.running():
        for number in range(3):
            box.watch.maybe_audit(sample(number))
        await box.until(lambda: len(box.listener.ends) == 3)
    asked = [one.payer.request_id for one in box.frontiers.calls]
    assert asked == ["r0", "r1", "r2", "r0", "r2"]
    assert box.listener.ends == [AuditEnd.AGREED, AuditEnd.FAILED, AuditEnd.AGREED]


def test_outages_cost_no_try_and_the_last_try_is_the_last() -> None:
    settings = AuditSettings(max_tries=3, retry_s=30.0)
    out = FrontierError(FrontierWhy.BUDGET, "no money", retry_after_s=1e9)
    assert after_failure(out, 99, settings) == Again(3600.0, counts=False)
    cut = FrontierError(FrontierWhy.CUT, "cut off")
    assert after_failure(cut, 1, settings) == Again(30.0, counts=True)
    assert after_failure(cut, 2, settings) is None
    assert after_failure(FrontierError(FrontierWhy.NONE_CONFIGURED, ""), 0, settings) is None


async def test_a_fault_in_one_question_does_not_end_the_others() -> None:
    def broken(_: Mapping[str, Any]) -> str:
        raise RuntimeError("a bug")

    box = Box()
    async with box.watch.running():
        box.watch.maybe_audit(sample(read=broken))
        box.watch.maybe_audit(sample())
        await box.until(lambda: len(box.listener.ends) == 2)
    assert box.listener.ends == [AuditEnd.FAILED, AuditEnd.AGREED]


@pytest.mark.parametrize("bound", [{"max_waiting": 2}, {"max_waiting_tokens": 2047}])
async def test_more_audits_than_may_wait_are_dropped_and_counted(bound: dict[str, int]) -> None:
    box = Box(audit=AuditSettings(share=1.0, **bound))  # type: ignore[arg-type]
    queued = [box.watch.maybe_audit(sample(call=call(tokens=1000))) for _ in range(4)]
    assert queued == [True, True, False, False]
    assert box.listener.ends == [AuditEnd.DROPPED] * 2


async def test_an_alarm_suspends_at_once_and_survives_a_restart() -> None:
    box = Box()
    async with box.watch.running():
        while box.watch.observe(decided(0.01)) is None:
            pass
        assert "drift" in (box.watch.suspended(CERTIFICATE) or "")
        # The keeper saves because of the alarm, not because a minute went by.
        await box.until(lambda: box.store.document is not None)
        for _ in range(2000):
            if read_state(box.store.document).certificates[0].state.alarm is not None:
                break
            await asyncio.sleep(0)
    again = Box(store=box.store)
    assert again.watch.suspended(CERTIFICATE) == box.watch.suspended(CERTIFICATE)
    assert rows(again) == rows(box)
    assert again.watch.alarms()[0].certificate == CERTIFICATE
    assert again.watch.suspended("e" * 64) is None
    again.watch.certified(dataclasses.replace(TERMS, certificate="e" * 64))
    assert again.watch.suspended("e" * 64) is None
    assert again.watch.clear(CERTIFICATE, "ada")
    assert again.watch.suspended(CERTIFICATE) is None
    assert not again.watch.clear(CERTIFICATE, "ada")
    assert [one.kind for one in again.watch.events()] == [EventKind.CLEARED]
    assert box.listener.events[0].kind is EventKind.ALARM
    assert box.listener.events[0].values["signal"] in {"escalation", "scores"}


class HeldStore(MemoryWatchStore):
    """A disk whose first save takes until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = 0
        self.overlapped = False
        self.started, self.go = threading.Event(), threading.Event()

    def save(self, document: bytes) -> None:
        self.busy += 1
        self.overlapped = self.overlapped or self.busy > 1
        self.started.set()
        assert self.go.wait(20)
        self.busy -= 1
        super().save(document)


async def test_a_save_waits_for_one_that_was_cancelled_but_still_writes() -> None:
    store = HeldStore()
    box = Box(store=store)
    first = asyncio.create_task(box.watch.save())
    await asyncio.to_thread(store.started.wait, 20)
    first.cancel()
    store.started.clear()
    second = asyncio.create_task(box.watch.save())
    # Were it not to wait, it would enter within this while.
    assert not await asyncio.to_thread(store.started.wait, 0.05)
    store.go.set()
    await second
    assert (store.saves, store.overlapped) == (2, False)


async def test_an_alarm_that_only_tells_suspends_nothing() -> None:
    box = Box(drift=DriftSettings(tokens_mean=30.0, suspend=False))
    while box.watch.observe(decided(0.01)) is None:
        pass
    assert box.watch.suspended(CERTIFICATE) is None
    assert len(box.watch.alarms()) == 1


async def test_decisions_without_a_certificate_are_only_counted() -> None:
    box = Box()
    for _ in range(500):
        assert box.watch.observe(decided(None, certificate="")) is None
    assert rows(box) == (500, 500, 0, 0)


async def test_escalated_answers_are_compared_for_the_ledger() -> None:
    box = Box()
    facts: dict[str, Any] = {
        "where": WHERE, "request_id": "r1", "certificate": CERTIFICATE, "model_digest": "d" * 64,
        "score": 0.1, "local": "balance", "how": HowToCompare.LABEL,
    }  # fmt: skip
    assert box.watch.compared(Compared(**facts, frontier="Balance"))
    assert not box.watch.compared(Compared(**facts, frontier="transfer"))
    assert [one.source for one in box.ledger.comparisons] == [ComparedBy.ESCALATED] * 2
    assert [one.share_ppm for one in box.ledger.comparisons] == [10**6] * 2


async def test_the_certificate_unused_longest_goes_first_but_never_an_alarm_before() -> None:
    box = Box(max_certificates=2)
    while box.watch.observe(decided(0.01)) is None:
        pass
    for name in "efg":
        box.watch.certified(dataclasses.replace(TERMS, certificate=name * 64))
    kept = [one.terms.certificate[0] for one in box.watch.state().certificates]
    assert kept == ["c", "g"]


def trial_box(*script: str | FrontierError, **changes: Any) -> Box:
    settings = TrialSettings(**{"candidate": "intent-new", "share": 1.0, **changes})
    box = Box(*script, trial={"intent": settings})
    box.digests.update({"intent": "1" * 64, "intent-new": "2" * 64})
    return box


def pair(trial: str, old: str | None, new: str | None, **changes: Any) -> Pair:
    fine: dict[str, Any] = {
        "request_id": "r1", "how": HowToCompare.LABEL, "read": read, "call": call(),
        "may_leave": True,
    }  # fmt: skip
    return Pair(trial=trial, old=old, new=new, **{**fine, **changes})


async def test_a_trial_asks_the_frontier_only_where_answers_differ_and_reverts_by_itself() -> None:
    box = trial_box(*["balance"] * 50)
    plan = box.watch.plan_trial("intent")
    assert plan is not None
    assert (plan.old, plan.new) == ("intent", "intent-new")
    async with box.watch.running():
        assert box.watch.pair(pair(plan.trial, "balance", "balance")) is Outcome.CONTINUE
        assert box.watch.pair(pair(plan.trial, "balance", "x", may_leave=False)) is Outcome.CONTINUE
        for _ in range(20):
            box.watch.pair(pair(plan.trial, "balance", "transfer"))
        await box.until(lambda: bool(box.listener.events))
    state = box.watch.trials()[0]
    assert (state.outcome, state.wins, state.unjudged) == (Outcome.REVERT, 0, 1)
    assert box.listener.events[0].kind is EventKind.TRIAL_REVERT
    assert box.listener.events[0].values["candidate"] == "intent-new"
    assert box.watch.plan_trial("intent") is None
    again = Box(store=box.store, trial={"intent": TrialSettings(candidate="intent-new")})
    again.digests.update(box.digests)
    assert again.watch.plan_trial("intent") is None
    again.digests["intent-new"] = "3" * 64
    assert again.watch.plan_trial("intent") is not None


async def test_a_candidate_that_fails_loses_without_a_judge() -> None:
    box = trial_box()
    plan = box.watch.plan_trial("intent")
    assert plan is not None
    outcomes = [box.watch.pair(pair(plan.trial, "balance", None)) for _ in range(20)]
    assert outcomes[-1] is Outcome.REVERT
    assert box.frontiers.calls == []
    assert len(box.listener.events) == 1


async def test_a_trial_needs_both_bundles() -> None:
    box = trial_box()
    del box.digests["intent-new"]
    assert box.watch.plan_trial("intent") is None
    assert box.watch.plan_trial("other") is None
    assert box.watch.pair(pair("unknown", "a", "b")) is Outcome.CONTINUE


def test_a_state_that_cannot_be_read_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="move it away"):
        Box(store=MemoryWatchStore(b'{"schema": "edge-runtime/watch/9"}'))


def test_after_a_crash_there_is_the_old_state_or_the_new_one() -> None:
    files = CrashFiles()
    store = FileWatchStore(Path("/box/watch/state.json"), files)
    assert store.load() is None
    store.save(b"old")
    files.sync()
    store.save(b"new")
    found = {FileWatchStore(store.path, crash.files).load() for crash in files.crashes()}
    assert found == {b"old", b"new"}
    assert FileWatchStore(store.path, files).load() == b"new"
