"""`MemoryFrontiers`: the in-memory twin of the frontiers, for tests and dry runs.

The pool itself is the real one, with its breaker, retries, budgets and ledger rows; only the
network is replaced. `answer` gets each request's body and says what comes back; lists of
`Scripted` answers can be made with `says` and `fails`.

Example::

    frontiers = MemoryFrontiers(lambda body: says("42"))
    reply = await frontiers.complete(call)
    frontiers.ledger.attempts  # one row
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from edge_runtime.ledger.ledger import LedgerLike
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.prices import Prices, parse_prices
from edge_runtime.router.frontier.capture import CaptureLike
from edge_runtime.router.frontier.meter import Meter
from edge_runtime.router.frontier.pool import FrontierPool
from edge_runtime.router.frontier.settings import FrontierSettings
from edge_runtime.router.frontier.transport import Answer, Sent, Target
from edge_runtime.router.frontier.walk import Timing

Body = dict[str, Any]
NOW_US = 1_795_348_800_000_000  # 2026-11-22 12:00 UTC


class Stall:
    """A piece that never comes."""


@dataclass(frozen=True, slots=True)
class Scripted:
    """One answer: `pieces` of its body; an exception is raised, a `Stall` waits for ever.

    `before` is raised instead of any answer; `after_sent` whether the request had left by then.
    """

    status: int = 200
    pieces: tuple[bytes | Exception | Stall, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    before: Exception | Stall | None = None
    after_sent: bool = True


def completion(text: str, *, tokens: tuple[int, int, int] | None = (10, 0, 5)) -> Body:
    """A chat completion; `tokens` are those of the prompt, the cached ones, the answer's."""
    body: Body = {
        "id": "chatcmpl-memory",
        "object": "chat.completion",
        "created": NOW_US // 1_000_000,
        "model": "memory",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
    }
    return body if tokens is None else body | {"usage": usage(*tokens)}


def usage(tokens_in: int, tokens_cached: int, tokens_out: int) -> Body:
    """An OpenAI usage object."""
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": tokens_cached},
    }


def says(
    text: str, *, tokens: tuple[int, int, int] | None = (10, 0, 5), stream: bool = False
) -> Scripted:
    """A whole answer, or the same as a stream of words."""
    if not stream:
        return Scripted(pieces=(orjson.dumps(completion(text, tokens=tokens)),))
    words = [f"{word} " for word in text.split(" ")]
    words[-1] = words[-1][:-1]
    deltas: list[Body] = [{"role": "assistant", "content": ""}, *({"content": w} for w in words)]
    events = [_chunk(delta) for delta in deltas]
    events.append(_chunk({}, "stop"))
    if tokens is not None:
        events.append({**_chunk({}), "choices": [], "usage": usage(*tokens)})
    return Scripted(pieces=(*(event(one) for one in events), b"data: [DONE]\n\n"))


def fails(status: int, message: str = "", code: str = "", **headers: str) -> Scripted:
    """A refusal by status; header names with `_` for `-`."""
    body = orjson.dumps({"error": {"message": message, "code": code or None}})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Scripted(status, (body,), named)


def event(data: Body) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


@dataclass(slots=True)
class MemoryTransport:
    """A `Transport` without a network; `requests` holds what was sent, with the frontier's URL.

    `told` answers GETs by their URL.
    """

    answer: Callable[[Body], Scripted]
    told: Callable[[str], Scripted] = lambda _url: fails(404)
    requests: list[tuple[str, Body]] = field(default_factory=list)
    open_now: int = 0

    @asynccontextmanager
    async def post(self, target: Target, body: bytes, sent: Sent) -> AsyncIterator[Answer]:
        """See `Transport.post`."""
        request = orjson.loads(body)
        self.requests.append((target.url, request))
        async with self._play(self.answer(request), sent) as answer:
            yield answer

    @asynccontextmanager
    async def get(self, target: Target) -> AsyncIterator[Answer]:
        """See `Transport.get`."""
        async with self._play(self.told(target.url), lambda: None) as answer:
            yield answer

    @asynccontextmanager
    async def _play(self, found: Scripted, sent: Sent) -> AsyncIterator[Answer]:
        self.open_now += 1
        try:
            if found.after_sent:
                sent()
            if found.before is not None:
                await _play(found.before)
            yield _MemoryAnswer(found.status, found.headers, list(found.pieces))
        finally:
            self.open_now -= 1

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(slots=True)
class _MemoryAnswer:
    status: int
    headers: Mapping[str, str]
    rest: list[bytes | Exception | Stall]

    async def piece(self) -> bytes:
        if not self.rest:
            return b""
        await asyncio.sleep(0)  # as a network, it lets others run
        return await _play(self.rest.pop(0))


async def _play(piece: bytes | Exception | Stall) -> bytes:
    if isinstance(piece, Exception):
        raise piece
    while isinstance(piece, Stall):
        await asyncio.get_running_loop().create_future()
    return piece


class MemoryFrontiers(FrontierPool):
    """See the module. `transport.requests` holds what was sent, `ledger` what it cost."""

    def __init__(
        self,
        answer: Callable[[Body], Scripted],
        *,
        names: Collection[str] = ("frontier",),
        settings: Mapping[str, Any] | None = None,
        ledger: LedgerLike | None = None,
        scopes: Collection[str] = (),
        meter: Meter | None = None,
        capture: CaptureLike | None = None,
        timing: Timing | None = None,
        told: Callable[[str], Scripted] = lambda _url: fails(404),
    ) -> None:
        self.transport = MemoryTransport(answer, told)
        self.ledger = MemoryLedger(lambda: NOW_US) if ledger is None else ledger
        super().__init__(
            {name: memory_settings(name, **(settings or {})) for name in names},
            memory_prices(names),
            self.ledger,
            scopes=scopes,
            meter=meter,
            capture=capture,
            transport=self.transport,
            timing=timing,
            wall_us=lambda: NOW_US,
        )


def memory_settings(name: str, **changes: Any) -> FrontierSettings:
    """Settings of a frontier nobody connects to; `order` falls where none is given."""
    return FrontierSettings.model_validate(
        {
            "base_url": f"http://127.0.0.1:9/{name}/v1",
            "model": name,
            "template_tokens": 0,
            "training_allowed": False,
            **changes,
        }
    )


def memory_prices(names: Collection[str]) -> Prices:
    """2.00 a million fresh tokens, 0.50 cached, 8.00 of output; each later name 1.00 dearer."""
    return parse_prices(
        {
            "schema": 1,
            "version": "memory",
            "as_of": "2026-11-22",
            "currency": "USD",
            "frontier": {
                name: {"input": 2 + place, "cached_input": "0.5", "output": 8}
                for place, name in enumerate(names)
            },
        }
    )


def _chunk(delta: Body, finish_reason: str | None = None) -> Body:
    return {
        "id": "chatcmpl-memory",
        "object": "chat.completion.chunk",
        "created": NOW_US // 1_000_000,
        "model": "memory",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
