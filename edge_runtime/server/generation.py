"""Events of sequences to one HTTP answer, whole or as a stream. Chat and text share it.

`respond` answers as the tokens come. `collect` gathers an answer that is judged first, and
`respond_collected` gives it, as it would have been given then.

Example:
    job = Job(info, requests, prompt_lens, choices, shape, stream=True, include_usage=True)
    return await respond(request, job, ending)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import structlog
from aiohttp import web

from edge_runtime.core import FinishReason, GenerateRequest, ModelInfo, SamplingParams, TokenEvent
from edge_runtime.errors import EdgeError
from edge_runtime.ledger.rows import Status
from edge_runtime.router.told import Told
from edge_runtime.server.context import RequestContext, Services, context_of, services_of
from edge_runtime.server.events import Figures, Tagged, check, merge
from edge_runtime.server.replies import json_reply
from edge_runtime.server.sampling import seed_of_choice
from edge_runtime.server.sse import EventStream

log: Final = structlog.get_logger("edge_runtime.server")


class Shape(Protocol):
    """How one route writes answers. `index` counts choices over all prompts."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice of a chunk that comes before the first token, if the route has one."""

    def piece(self, index: int, event: TokenEvent) -> dict[str, Any] | None:
        """The choice of the chunk for one event; None when there is nothing to say yet."""

    def choice(self, index: int, events: Sequence[TokenEvent]) -> dict[str, Any]:
        """One choice of a whole answer."""

    def head(self, *, chunk: bool) -> dict[str, Any]:
        """`id`, `object`, `created`, `model`."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to generate and how to write it. `requests`: prompt by prompt, choice by choice."""

    info: ModelInfo
    requests: Sequence[GenerateRequest]
    prompt_lens: Sequence[int]
    choices: int
    shape: Shape
    stream: bool
    include_usage: bool


class Ending(Protocol):
    """Who keeps the books of a local try."""

    def done(self, figures: Figures, now_s: float) -> None:
        """It answered: called before the last bytes of the answer go out."""

    def broke(self, figures: Figures, now_s: float, status: Status) -> None:
        """It began, and failed or was cancelled."""

    def answered(self, body: Mapping[str, Any], pieces: Sequence[Mapping[str, Any]]) -> None:
        """What was given: the whole answer, and the chunks it streamed in, if it did."""


@dataclass(slots=True)
class Simply:
    """The books of a request that one local model answers: one row, answered or not."""

    told: Told
    info: ModelInfo

    def done(self, figures: Figures, now_s: float) -> None:
        """See `Ending`."""
        self.told.bill.local(self.info, figures.work(now_s))
        self.told.bill.close(rung=0, reason=self.told.reason)

    def broke(self, figures: Figures, now_s: float, status: Status) -> None:
        """See `Ending`."""
        self.told.bill.local(self.info, figures.work(now_s), status=status)
        self.told.bill.cancel()

    def answered(self, body: Mapping[str, Any], pieces: Sequence[Mapping[str, Any]]) -> None:
        """See `Ending`; nothing is kept."""


@dataclass(frozen=True, slots=True)
class Collected:
    """A whole local answer, not given to anybody yet: events in the order they came."""

    job: Job
    tagged: Sequence[Tagged]
    figures: Figures

    def of(self, index: int) -> list[TokenEvent]:
        """The events of one choice."""
        return [event for at, event in self.tagged if at == index]

    def body(self) -> dict[str, Any]:
        """The answer without `edge`."""
        shape = self.job.shape
        choices = [shape.choice(index, self.of(index)) for index in range(len(self.job.requests))]
        return {**shape.head(chunk=False), "choices": choices, "usage": self.figures.usage()}


def sequences(
    context: RequestContext,
    info: ModelInfo,
    prompts: Sequence[tuple[tuple[int, ...], SamplingParams]],
    choices: int,
) -> list[GenerateRequest]:
    """One `GenerateRequest` a choice, each with its own id and seed."""
    return [
        GenerateRequest(
            request_id=f"{context.request_id}/{at * choices + choice}",
            model=info.name,
            prompt=prompt,
            params=replace(params, seed=seed_of_choice(params, choice)),
            arrival_s=context.arrival_s,
            deadline_s=context.deadline_s,
            request_class=context.request_class,
            bundle_digest=info.bundle_digest,
        )
        for at, (prompt, params) in enumerate(prompts)
        for choice in range(choices)
    ]


async def respond(request: web.Request, job: Job, ending: Ending) -> web.StreamResponse:
    """Generate and answer. Errors before the first token keep their status."""
    services, context = services_of(request), context_of(request)
    figures = Figures(context.arrival_s, job.prompt_lens, job.choices)
    async with _generating(services, job, figures, ending) as events:
        if job.stream:
            return await _stream(request, job, events, figures, ending)
        tagged = [one async for one in _checked(services, events, figures)]
    collected = Collected(job, tagged, figures)
    return await respond_collected(request, collected, ending)


async def collect(
    services: Services, context: RequestContext, job: Job, ending: Ending
) -> Collected:
    """Generate without answering; `ending` hears of failures only. Raises what went wrong."""
    figures = Figures(context.arrival_s, job.prompt_lens, job.choices)
    async with _generating(services, job, figures, ending) as events:
        tagged = [one async for one in _checked(services, events, figures)]
    return Collected(job, tagged, figures)


async def respond_collected(
    request: web.Request, collected: Collected, ending: Ending
) -> web.StreamResponse:
    """Give an answer that is there already, whole or as a stream."""
    services, context = services_of(request), context_of(request)
    job, figures = collected.job, collected.figures
    if job.stream:
        return await _replay(request, collected, ending)
    body = collected.body()
    ending.done(figures, services.clock())
    await _settled(context)
    if context.keeps_answers:
        ending.answered(body, ())
    return json_reply({**body, "edge": context.edge(_timings(services, context, figures))})


@contextlib.asynccontextmanager
async def _generating(
    services: Services, job: Job, figures: Figures, ending: Ending
) -> AsyncIterator[AsyncGenerator[Tagged, None]]:
    """The events of a job; what breaks it is booked."""
    try:
        async with contextlib.AsyncExitStack() as opened:
            streams = []
            for one in job.requests:
                streams.append(services.host.generate(one))
                opened.push_async_callback(streams[-1].aclose)
            yield await opened.enter_async_context(contextlib.aclosing(merge(streams)))
    except (asyncio.CancelledError, ConnectionResetError):
        ending.broke(figures, services.clock(), Status.CANCELLED)
        raise
    except Exception:
        if figures.begun:
            ending.broke(figures, services.clock(), Status.ERROR)
        raise


async def _checked(
    services: Services, events: AsyncGenerator[Tagged, None], figures: Figures
) -> AsyncGenerator[Tagged, None]:
    async for index, event in events:
        figures.note(index, event, services.clock())
        check(event)
        yield index, event


async def _stream(
    request: web.Request,
    job: Job,
    events: AsyncGenerator[Tagged, None],
    figures: Figures,
    ending: Ending,
) -> web.StreamResponse:
    services, context = services_of(request), context_of(request)
    # the first event decides between a status code and a stream
    checked = _checked(services, events, figures)
    first = await anext(checked)
    writer = await _open_stream(request, job, figures, ending)
    try:
        await writer.write(*first)
        async for index, event in checked:
            await writer.write(index, event)
    except ConnectionResetError:
        raise
    except Exception as error:
        if not isinstance(error, EdgeError):
            log.exception("stream failed", action="stream_failed", request_id=context.request_id)
        ending.broke(figures, services.clock(), Status.ERROR)
        return await writer.stream.fail(error, context.edge(figures.timings()))
    return await writer.close()


async def _replay(request: web.Request, collected: Collected, ending: Ending) -> web.StreamResponse:
    writer = await _open_stream(request, collected.job, collected.figures, ending)
    for index, event in collected.tagged:
        await writer.write(index, event)
    return await writer.close()


async def _open_stream(
    request: web.Request, job: Job, figures: Figures, ending: Ending
) -> _ChunkWriter:
    services, context = services_of(request), context_of(request)
    timeout_s = services.settings.server.write_timeout_s
    stream = EventStream(request, context.answer_headers(), timeout_s)
    await stream.start()
    writer = _ChunkWriter(stream, job, context, services, figures, ending)
    await writer.open()
    return writer


async def _settled(context: RequestContext) -> None:
    for told in context.told:
        await told.bill.settled()


def _timings(services: Services, context: RequestContext, figures: Figures) -> dict[str, object]:
    """The figures' times, and when the caller gets the first of it: now."""
    sent_ms = round((services.clock() - context.arrival_s) * 1000, 2)
    return {**figures.timings(), "first_sent_ms": sent_ms}


@dataclass(slots=True)
class _ChunkWriter:
    """Chunks of one stream. The last event before `[DONE]` carries `edge`.

    That is the usage chunk where one was asked for, else the last choice's final chunk: an
    extra chunk without choices would break clients that read `choices[0]` of every one.
    """

    stream: EventStream
    job: Job
    context: RequestContext
    services: Services
    figures: Figures
    ending: Ending
    ended: int = 0
    first_sent_s: float | None = None
    tagged: list[Tagged] = field(default_factory=list)
    pieces: list[dict[str, Any]] = field(default_factory=list)

    async def open(self) -> None:
        """What comes before the first token of each choice."""
        for index in range(len(self.job.requests)):
            choice = self.job.shape.opening(index)
            if choice is not None:
                await self._send(self._chunk([choice]))

    async def write(self, index: int, event: TokenEvent) -> None:
        """One event, noted before."""
        if self.context.keeps_answers:
            self.tagged.append((index, event))
        self.ended += event.finish_reason is not None
        if self.first_sent_s is None:
            self.first_sent_s = self.services.clock()
        choice = self.job.shape.piece(index, event)
        if choice is None:
            return
        chunk = self._chunk([choice])
        if self.ended == len(self.job.requests) and not self.job.include_usage:
            chunk["edge"] = await self._edge()
        await self._send(chunk)

    async def close(self) -> web.StreamResponse:
        """The usage chunk, when asked for, and the end."""
        if self.job.include_usage:
            chunk = self._chunk([])
            chunk["usage"] = self.figures.usage()
            chunk["edge"] = await self._edge()
            await self.stream.send(chunk)
        if self.context.keeps_answers:
            collected = Collected(self.job, self.tagged, self.figures)
            self.ending.answered(collected.body(), self.pieces)
        return await self.stream.finish()

    async def _send(self, chunk: dict[str, Any]) -> None:
        if self.context.keeps_answers:
            self.pieces.append(chunk)
        await self.stream.send(chunk)

    async def _edge(self) -> dict[str, object]:
        """Books the answer: the row must be made before the cost is told."""
        self.ending.done(self.figures, self.services.clock())
        await _settled(self.context)
        sent_s = self.first_sent_s if self.first_sent_s is not None else self.context.arrival_s
        sent_ms = round((sent_s - self.context.arrival_s) * 1000, 2)
        return self.context.edge({**self.figures.timings(), "first_sent_ms": sent_ms})

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self.job.shape.head(chunk=True), "choices": choices}
        if self.job.include_usage:
            chunk["usage"] = None
        return chunk


def finish_reason(event: TokenEvent) -> str | None:
    """`stop`, `length` or None as HTTP clients know them."""
    if event.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}:
        return str(event.finish_reason)
    return None
