"""A chat and the caches: look up, keep, give again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.contract import Hit
from edge_runtime.cache.key import Question, answer_fields
from edge_runtime.cache.policy import is_whole, parse_cache_control, use_for
from edge_runtime.cache.semantic.contract import similar_question
from edge_runtime.core import ModelInfo
from edge_runtime.router.contract import Reason
from edge_runtime.server import chat_write
from edge_runtime.server.body import INERT
from edge_runtime.server.chat_stream import finish_reasons, kept_pieces, pieces_of
from edge_runtime.server.context import new_id
from edge_runtime.server.replies import json_reply

if TYPE_CHECKING:
    from edge_runtime.server.chat_course import ChatCourse

NEVER_KEPT = frozenset({Reason.DEGRADED, Reason.NEVER_LEAVE})


def look_up(course: ChatCourse) -> Hit | None:
    """The exact cache's answer; says on the course how caches may be used for it."""
    router, told = course.services.router, course.case.told
    directives = parse_cache_control(course.request.headers.get("Cache-Control"))
    info = next((one for one in course.case.infos if one is not None), None)
    default = None if info is None else info.default_params.get("temperature")
    data = course.asked.data
    temperature = data.get("temperature")
    if temperature is None:
        temperature = default
    parameters = {"temperature": temperature, "seed": data.get("seed")}
    course.use = use_for(parameters, directives, ttl_s=router.exact_ttl_s)
    if not router.caches or not (course.use.read or course.use.keep):
        return None
    told.cache = "miss"
    course.question = _question(course, info)
    found = router.look_up(course.question, course.use)
    if found is None:
        return None
    told.cache_key = found.key.hex()
    if isinstance(found, Hit):
        return found
    course.ticket = found
    return None


async def look_similar(course: ChatCourse) -> Hit | None:
    """The semantic cache's answer; None also where a fresh one has to check it."""
    router = course.services.router
    if router.semantic is None or course.question is None:
        return None
    course.similar = similar_question(course.question)
    if course.similar is None or not course.use.read:
        return None
    hit = await router.semantic.lookup(course.similar)
    found = hit is not None and not hit.explore
    router.metrics.count("edge_cache_lookups_total", "semantic", "hit" if found else "miss")
    if hit is None or hit.explore:
        return None
    course.case.told.detail = f"similarity {hit.similarity:.3f}"
    return Hit(hit.answer, hit.age_s)


def _question(course: ChatCourse, info: ModelInfo | None) -> Question:
    """What is asked, for whom and of what: another certificate is another question."""
    digest = "frontier:" + ",".join(course.plan.order) if info is None else info.model_digest
    holding = course.case.holdings[0] if course.case.holdings else None
    known = None if holding is None else holding.known
    edge = {
        "endpoint": course.plan.endpoint,
        "policy": str(course.plan.rules.policy),
        "trust": str(course.case.ladder[0].trust) if course.case.ladder else "",
        "certificate": None if known is None else known.digest,
    }
    fields = {**answer_fields(course.asked.data, INERT), "edge": edge}
    return Question("chat", digest, course.case.told.bill.payer.tenant, fields)


def keeps(course: ChatCourse, reason: Reason) -> bool:
    """Whether an answer given for `reason` may be kept."""
    wanted = course.ticket is not None or course.similar is not None
    return wanted and course.use.keep and reason not in NEVER_KEPT


def remember(
    course: ChatCourse, body: Mapping[str, Any], chunks: Sequence[Mapping[str, Any]]
) -> None:
    """Keep a whole answer, in the background."""
    if not is_whole(finish_reasons(body)):
        return
    usage = body.get("usage") or {}
    told, tag = course.case.told, course.context.wishes.tag
    answer = Answer(
        body={name: value for name, value in body.items() if name != "edge"},
        pieces=kept_pieces(chunks),
        tokens_in=usage.get("prompt_tokens", 0),
        tokens_out=usage.get("completion_tokens", 0),
        saved_nano=told.bill.cost_nano,
        answered_by=told.answered_by,
        score=told.bill.score(),
        tags=frozenset({tag} if tag else ()),
    )
    router = course.services.router
    if course.ticket is not None:
        router.keep(course.ticket, answer, course.use)
    if course.similar is not None and router.semantic is not None:
        keep = router.semantic.keep(course.similar, answer, ttl_s=course.use.ttl_s)
        router.background("keep-similar", keep)


async def from_cache(
    course: ChatCourse, hit: Hit, reason: Reason = Reason.CACHED
) -> web.StreamResponse:
    """Give a kept answer, and book what it saved."""
    course.own.stop()
    answer, told = hit.answer, course.case.told
    question = course.question
    row = told.bill.cache_row(
        answer,
        model_digest="" if question is None else question.model_digest[:64],
        duration_us=round(chat_write.since_ms(course) * 1000),
        reason=str(reason),
    )
    course.case.from_cache(reason, row, by=answer.answered_by)
    await told.bill.settled()
    head = {"id": new_id("chatcmpl"), "created": course.services.now_s()}
    edge = course.context.edge(
        {
            "total_ms": chat_write.since_ms(course),
            "first_sent_ms": chat_write.since_ms(course),
            "age_s": hit.age_s,
        }
    )
    if not course.asked.stream:
        return json_reply({**answer.body, **head, "edge": edge})
    pieces = [dict(piece) for piece in answer.pieces] or pieces_of(answer.body)
    return await chat_write.write_pieces(course, pieces, answer.body.get("usage"), edge, head)
