"""A chat that goes to the frontiers: whole, or as their stream comes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from edge_runtime.router.contract import (
    FrontierChunk,
    FrontierError,
    FrontierReply,
    FrontierWhy,
    Policy,
    Reason,
)
from edge_runtime.server import chat_cache, chat_judged, chat_watch, chat_write
from edge_runtime.server.chat_stream import pieces_of
from edge_runtime.server.replies import json_reply

if TYPE_CHECKING:
    from edge_runtime.server.chat_course import ChatCourse


async def escalate(course: ChatCourse, reason: Reason) -> web.StreamResponse | None:
    """Ask the frontiers; None when none answered."""
    frontiers = course.services.router.frontiers
    assert frontiers is not None, "escalated without frontiers"
    course.case.escalating(reason)
    call = course.call(reason)
    if course.asked.stream and call.accept is None:
        async with contextlib.aclosing(frontiers.stream(call)) as chunks:
            return await _pass_on(course, chunks, reason)
    try:
        reply = await frontiers.complete(call)
    except FrontierError as error:
        course.case.frontier_failed(error)
        return None
    course.case.escalated(reason, reply)
    await course.case.told.bill.settled()
    _after_frontier(course, reason, reply, ())
    edge = course.context.edge(_timings(course, reply))
    if course.asked.stream:
        usage = reply.body.get("usage")
        return await chat_write.write_pieces(course, pieces_of(reply.body), usage, edge, reply.body)
    return json_reply({**reply.body, "edge": edge})


async def _pass_on(
    course: ChatCourse, chunks: AsyncGenerator[FrontierChunk, None], reason: Reason
) -> web.StreamResponse | None:
    """Give a frontier's stream as it comes; the last event waits for the bill."""
    case, told = course.case, course.case.told
    try:
        first = await anext(chunks)
    except FrontierError as error:
        case.frontier_failed(error)
        return None
    told.answered(tier="frontier", reason=str(reason), by=first.frontier)
    stream = chat_write.event_stream(course)
    await stream.start()
    sent_ms = chat_write.since_ms(course)
    held: Mapping[str, Any] = first.data
    given: list[Mapping[str, Any]] = [held]
    usage: object = None
    reply = first.reply
    try:
        async for chunk in chunks:
            reply = chunk.reply or reply
            if not chunk.data.get("choices"):
                usage = chunk.data.get("usage") or usage
                continue
            await stream.send(held)
            held = chunk.data
            given.append(held)
        if reply is None:
            raise FrontierError(FrontierWhy.CUT, "the frontier's stream had no end")
    except FrontierError as error:
        case.frontier_failed(error)
        told.answered(tier="", reason=str(reason), by="")
        return await stream.fail(error, course.context.edge({"first_sent_ms": sent_ms}))
    case.escalated(reason, reply)
    await told.bill.settled()
    edge = course.context.edge({**_timings(course, reply), "first_sent_ms": sent_ms})
    if course.asked.include_usage:
        await stream.send(held)
        head = {name: held.get(name) for name in ("id", "object", "created", "model")}
        bill = usage or reply.body.get("usage")
        held = {**head, "choices": [], "usage": bill}
    await stream.send({**held, "edge": edge})
    _after_frontier(course, reason, reply, given)
    return await stream.finish()


def _after_frontier(
    course: ChatCourse, reason: Reason, reply: FrontierReply, chunks: Sequence[Mapping[str, Any]]
) -> None:
    course.context.keeps_answers = chat_cache.keeps(course, reason)
    if course.context.keeps_answers:
        chat_cache.remember(course, reply.body, chunks)
    chat_judged.resolved(course)
    course.reply = reply
    chat_watch.watch_escalated(course, reason, reply)
    if course.plan.rules.policy is Policy.SHADOW:
        chat_watch.shadow(course, reply)


def _timings(course: ChatCourse, reply: FrontierReply) -> dict[str, object]:
    """Times of an escalated answer; `local_first_token_ms` where a local model tried first."""
    firsts = [one.figures.first_s for one in course.collected.values()]
    local = [first for first in firsts if first is not None]
    arrival_s = course.context.arrival_s
    return {
        "local_first_token_ms": round((min(local) - arrival_s) * 1000, 2) if local else None,
        "frontier_first_token_ms": round(reply.first_token_s * 1000, 2),
        "frontier_ms": round(reply.total_s * 1000, 2),
        "total_ms": chat_write.since_ms(course),
        "first_sent_ms": chat_write.since_ms(course),
    }
