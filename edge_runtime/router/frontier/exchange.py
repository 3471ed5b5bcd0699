"""One exchange with a frontier: the request out, the answer in, whole or in chunks.

Rules
- Sizes are bounded, and so is every wait: for the first token, and for the whole.
- What arrives is counted as it arrives, so that a stream that breaks can still be billed.
- Giving up leaves the exchange open for whoever wants its bill: `attempt` closes it, or hands it
  to `later`.
- Of a stream nothing is given on before its first part of an answer: until then another frontier
  may be asked instead. What came with it, such as the role, then goes first.
- A stream that lost its end after every choice was finished lacks only its bill: it is whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson

from edge_runtime.router.contract import Json
from edge_runtime.router.frontier.attempt import Desk, Try
from edge_runtime.router.frontier.events import DONE, EventError, Gathered
from edge_runtime.router.frontier.lane import TryFailed
from edge_runtime.router.frontier.line import Rest
from edge_runtime.router.frontier.transport import (
    Answer,
    BrokenOffError,
    NotSentError,
    Transport,
    drain,
    read_all,
)
from edge_runtime.router.frontier.verdict import (
    BROKE_OFF,
    MALFORMED,
    NO_FIRST_TOKEN,
    NOT_REACHED,
    TOO_LARGE,
    TOO_SLOW,
    Verdict,
    of_event,
    of_status,
    refused,
    retry_after,
)

MAX_ERROR_BYTES = 64 * 1024
MAX_HELD_BACK = 64  # events without text that may come before the first with some


async def whole(desk: Desk, transport: Transport, one: Try) -> Json:
    """The answer, once it is one and the caller takes it. Raises `TryFailed`."""
    settings = one.lane.settings
    async with one.within(settings.total_timeout_s, TOO_SLOW):
        try:
            rest = one.dial(transport)
            answer = await rest.line.answer()
            await _check(desk, one, answer)
            one.answering()
            data = await rest.whole()
        except NotSentError as error:
            raise TryFailed(_because(NOT_REACHED, error)) from error
        except BrokenOffError as error:
            raise TryFailed(_because(BROKE_OFF, error)) from error
        except ValueError as error:
            raise TryFailed(_because(TOO_LARGE, error)) from error
    return _accepted(one, data)


async def streamed(
    desk: Desk, transport: Transport, one: Try, gathered: Gathered
) -> AsyncGenerator[Json, None]:
    """Chunks from the first with a part of the answer on; those before come with it."""
    settings = one.lane.settings
    try:
        async with one.within(settings.first_token_timeout_s, NO_FIRST_TOKEN):
            rest = one.dial(transport, gathered)
            answer = await rest.line.answer()
            await _check(desk, one, answer)
            one.prepared.facts.began = True
        chunks = _chunks(one, rest, answer, gathered)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
    except NotSentError as error:
        raise TryFailed(_because(NOT_REACHED, error)) from error
    except BrokenOffError as error:
        if not gathered.finished:
            raise TryFailed(_because(BROKE_OFF, error)) from error
    except EventError as error:
        raise TryFailed(_because(MALFORMED, error)) from error


async def _check(desk: Desk, one: Try, answer: Answer) -> None:
    if answer.status == 200:
        return
    try:
        body = await read_all(answer, MAX_ERROR_BYTES)
    except ValueError:
        body = b""
    if key := one.lane.target.key:  # some quote it; what is said here goes to logs and callers
        body = body.replace(key.encode(), b"<key>")
    wait_s = retry_after(answer.headers, desk.wall_us() / 1e6)
    verdict = of_status(answer.status, body, wait_s)
    assert verdict is not None, "200 was looked at before"
    raise TryFailed(verdict)


def _accepted(one: Try, data: bytes) -> Json:
    """The answer in `data`, once it is one and the caller takes it. Raises `TryFailed`."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise TryFailed(_because(MALFORMED, error)) from error
    if not isinstance(body, dict):
        raise TryFailed(MALFORMED)
    one.bill_of(body.get("usage"))
    if body.get("error") and not body.get("choices"):
        raise TryFailed(of_event(body["error"]))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise TryFailed(MALFORMED)
    one.prepared.facts.began = True
    one.prepared.facts.output_bytes = len(orjson.dumps(choices))
    fault = None if one.call.accept is None else one.call.accept(body)
    if fault is not None:
        raise TryFailed(refused(fault))
    return body


async def _chunks(
    one: Try, rest: Rest, answer: Answer, gathered: Gathered
) -> AsyncGenerator[Json, None]:
    """Parsed events; ends at `[DONE]`. Raises `TryFailed` and `EventError`."""
    facts = one.prepared.facts
    held_back: list[Json] = []
    told = False
    while True:
        try:
            piece = await _next_piece(one, answer, told=told)
        except TryFailed:
            if gathered.finished:  # only the bill is missing
                return
            raise
        if not piece:
            if gathered.finished:
                return
            raise BrokenOffError("the stream ended before its answer")
        try:
            rest.count(piece)
        except ValueError as error:
            raise TryFailed(_because(TOO_LARGE, error)) from error
        for data in rest.reader.feed(piece):
            if data.strip() == DONE:
                if not told:
                    raise EventError("a stream without an answer")
                await drain(answer)
                return
            chunk = _chunk(data)
            news = gathered.add(chunk)
            one.bill_of(gathered.usage)
            facts.output_bytes, facts.output_events = gathered.text_bytes, gathered.events_with_text
            if told:
                yield chunk
                continue
            held_back.append(chunk)
            if len(held_back) > MAX_HELD_BACK:
                raise EventError(f"{MAX_HELD_BACK} events without a part of an answer")
            if news:
                told = True
                one.answering()
                for early in held_back:
                    yield early
                held_back.clear()


async def _next_piece(one: Try, answer: Answer, *, told: bool) -> bytes:
    # Only time spent waiting for the frontier counts: a slow reader is not its fault.
    settings = one.lane.settings
    limit_s = settings.total_timeout_s - one.waited_s
    late = TOO_SLOW
    if not told and settings.first_token_timeout_s - one.waited_s < limit_s:
        limit_s, late = settings.first_token_timeout_s - one.waited_s, NO_FIRST_TOKEN
    async with one.within(limit_s, late):
        return await answer.piece()


def _chunk(data: str) -> dict[str, Any]:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise EventError(f"an event is no JSON: {error}") from error
    if not isinstance(chunk, dict):
        raise EventError("an event is no object")
    if chunk.get("error"):
        raise TryFailed(of_event(chunk["error"]))
    return chunk


def _because(verdict: Verdict, error: object) -> Verdict:
    return replace(verdict, message=f"{verdict.message} ({error})")
