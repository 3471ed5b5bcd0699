"""Write chat answers that are all there, and open streams for those that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from edge_runtime.server.sse import EventStream

if TYPE_CHECKING:
    from edge_runtime.server.chat_course import ChatCourse


async def write_pieces(
    course: ChatCourse,
    pieces: Sequence[Mapping[str, Any]],
    usage: object,
    edge: Mapping[str, object],
    head: Mapping[str, Any],
) -> web.StreamResponse:
    """Give chunks that are all there."""
    stream = event_stream(course)
    await stream.start()
    named = {name: head.get(name) for name in ("id", "created")}
    chunks: list[dict[str, Any]] = [{**piece, **named} for piece in pieces]
    if course.asked.include_usage:
        chunks = [{**chunk, "usage": None} for chunk in chunks]
        chunks.append({**chunks[-1], "choices": [], "usage": usage})
    chunks[-1]["edge"] = edge
    for chunk in chunks:
        await stream.send(chunk)
    return await stream.finish()


def event_stream(course: ChatCourse) -> EventStream:
    """A stream with the request's headers, not started."""
    timeout_s = course.services.settings.server.write_timeout_s
    return EventStream(course.request, course.context.answer_headers(), timeout_s)


def since_ms(course: ChatCourse) -> float:
    """Milliseconds since the request came."""
    return round((course.services.clock() - course.context.arrival_s) * 1000, 2)
