"""Events of sequences to one HTTP answer, whole or as a stream. Chat and text share it.

Example:
    job = Job(info, requests, prompt_lens, choices, shape, stream=True, include_usage=True)
    return await respond(request, job)
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import structlog
from aiohttp import web

from edge_runtime.core import FinishReason, GenerateRequest, ModelInfo, SamplingParams, TokenEvent
from edge_runtime.errors import EdgeError
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
        )
        for at, (prompt, params) in enumerate(prompts)
        for choice in range(choices)
    ]


async def respond(request: web.Request, job: Job) -> web.StreamResponse:
    """Generate and answer. Errors before the first token keep their status."""
    services, context = services_of(request), context_of(request)
    figures = Figures(context.arrival_s, job.prompt_lens, job.choices)
    async with contextlib.AsyncExitStack() as opened:
        streams = []
        for one in job.requests:
            streams.append(services.host.generate(one))
            opened.push_async_callback(streams[-1].aclose)
        events = await opened.enter_async_context(contextlib.aclosing(merge(streams)))
        if job.stream:
            return await _stream(request, job, events, figures)
        return await _whole(services, context, job, events, figures)


async def _whole(
    services: Services,
    context: RequestContext,
    job: Job,
    events: AsyncGenerator[Tagged, None],
    figures: Figures,
) -> web.Response:
    collected: list[list[TokenEvent]] = [[] for _ in job.requests]
    async for index, event in events:
        check(event)
        figures.note(index, event, services.clock())
        collected[index].append(event)
    choices = [job.shape.choice(index, got) for index, got in enumerate(collected)]
    return json_reply(
        {
            **job.shape.head(chunk=False),
            "choices": choices,
            "usage": figures.usage(),
            "edge": edge_field(context, figures),
        }
    )


async def _stream(
    request: web.Request, job: Job, events: AsyncGenerator[Tagged, None], figures: Figures
) -> web.StreamResponse:
    services, context = services_of(request), context_of(request)
    # the first event decides between a status code and a stream
    first = await anext(events)
    check(first[1])
    stream = EventStream(
        request, context.answer_headers(), services.settings.server.write_timeout_s
    )
    await stream.start()
    writer = _ChunkWriter(stream, job, context, figures)
    await writer.open()
    try:
        await writer.write(*first, services.clock())
        async for index, event in events:
            check(event)
            await writer.write(index, event, services.clock())
    except ConnectionResetError:
        raise
    except Exception as error:
        if not isinstance(error, EdgeError):
            log.exception("stream failed", action="stream_failed", request_id=context.request_id)
        return await stream.fail(error)
    await writer.close()
    return await stream.finish()


@dataclass(slots=True)
class _ChunkWriter:
    """Chunks of one stream. The last event before `[DONE]` carries `edge`.

    That is the usage chunk where one was asked for, else the last choice's final chunk: an
    extra chunk without choices would break clients that read `choices[0]` of every one.
    """

    stream: EventStream
    job: Job
    context: RequestContext
    figures: Figures
    ended: int = 0

    async def open(self) -> None:
        """What comes before the first token of each choice."""
        for index in range(len(self.job.requests)):
            choice = self.job.shape.opening(index)
            if choice is not None:
                await self.stream.send(self._chunk([choice]))

    async def write(self, index: int, event: TokenEvent, now_s: float) -> None:
        """One event."""
        self.figures.note(index, event, now_s)
        self.ended += event.finish_reason is not None
        choice = self.job.shape.piece(index, event)
        if choice is None:
            return
        chunk = self._chunk([choice])
        if self.ended == len(self.job.requests) and not self.job.include_usage:
            chunk["edge"] = edge_field(self.context, self.figures)
        await self.stream.send(chunk)

    async def close(self) -> None:
        """The usage chunk, when asked for."""
        if self.job.include_usage:
            chunk = self._chunk([])
            chunk["usage"] = self.figures.usage()
            chunk["edge"] = edge_field(self.context, self.figures)
            await self.stream.send(chunk)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self.job.shape.head(chunk=True), "choices": choices}
        if self.job.include_usage:
            chunk["usage"] = None
        return chunk


def edge_field(context: RequestContext, figures: Figures) -> dict[str, Any]:
    """The body's `edge` field: who answered, why, and how long each part took."""
    assert context.info is not None
    return {
        "answered_by": context.info.full_name,
        "tier": "local",
        "reason": "requested-model",
        "timings": figures.timings(),
    }


def finish_reason(event: TokenEvent) -> str | None:
    """`stop`, `length` or None as HTTP clients know them."""
    if event.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}:
        return str(event.finish_reason)
    return None
