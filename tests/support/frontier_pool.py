"""Pools without a network for tests: who is asked, what is given out, what is booked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.router.contract import (
    FrontierCall,
    FrontierChunk,
)
from edge_runtime.router.frontier.memory import (
    Body,
    MemoryFrontiers,
    Scripted,
    says,
)
from tests.support.frontier import FakeTime

FRONTIERS = ("first", "second")


def pool(
    answer: Callable[[Body], Scripted] | None = None,
    *,
    names: tuple[str, ...] = FRONTIERS,
    clock: FakeTime | None = None,
    **settings: Any,
) -> MemoryFrontiers:
    timing = (clock or FakeTime()).timing
    answer = answer or (lambda body: says("yes", stream=body.get("stream", False)))
    return MemoryFrontiers(answer, names=names, timing=timing, settings=settings)


def by_model(**answers: Scripted) -> Callable[[Body], Scripted]:
    return lambda body: answers[body["model"]]


def in_turn(*answers: Scripted) -> Callable[[Body], Scripted]:
    left = list(answers)
    return lambda _body: left.pop(0)


def asked(frontiers: MemoryFrontiers) -> list[str]:
    return [body["model"] for _, body in frontiers.transport.requests]


async def all_of(frontiers: MemoryFrontiers, call: FrontierCall) -> list[FrontierChunk]:
    return [chunk async for chunk in frontiers.stream(call)]


def rows(frontiers: MemoryFrontiers) -> list[Any]:
    ledger = frontiers.ledger
    assert isinstance(ledger, MemoryLedger)
    assert not [one for one in ledger._usage.values() if one.held_nano], "money is still held"
    return ledger.attempts
