"""A watch with a scripted frontier and a clock for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.rows import Tokens
from edge_runtime.router.contract import (
    FrontierCall,
    FrontierChunk,
    FrontierError,
    FrontierReply,
    Payer,
)
from edge_runtime.router.watch.contract import (
    AuditEnd,
    Decided,
    HowToCompare,
    Sample,
    Slice,
    Terms,
    WatchEvent,
)
from edge_runtime.router.watch.settings import (
    AuditSettings,
    DriftSettings,
    WatchSettings,
)
from edge_runtime.router.watch.state import MemoryWatchStore
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
