"""POST /v1/chat/completions: a request that one local model answers, or one that goes a course."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from edge_runtime.core import Kind
from edge_runtime.errors import UsageError
from edge_runtime.router.plan import Plan
from edge_runtime.server.body import parse_object, read_bytes, read_fields
from edge_runtime.server.chat import ChatBody, chat_job, need_chat_template
from edge_runtime.server.chat_asked import read_asked
from edge_runtime.server.chat_course import ChatCourse
from edge_runtime.server.context import context_of, services_of
from edge_runtime.server.generation import Simply, respond


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer one chat request, whole or as a stream."""
    services, context = services_of(request), context_of(request)
    own = context.own_time(services)
    with own.away():
        raw = await read_bytes(request)
    data = parse_object(raw)
    name = data.get("model")
    if not isinstance(name, str) or not name:
        read_fields(request, data, ChatBody)
        raise UsageError("model must be a name", param="model")
    plan = services.plan(name, context.wishes)
    formed = plan.configured and data.get("response_format") is not None
    if plan.plain and not formed and not services.router.caches:
        own.observe(services.metrics, context.route)
        return await _plainly(request, data, plan)
    if plan.plain and not formed:
        read_fields(request, data, ChatBody)  # what is refused without a cache is refused with one
    course = ChatCourse(request, services, context, plan, read_asked(request, data, plan), own)
    return await course.run()


async def _plainly(request: web.Request, data: Mapping[str, Any], plan: Plan) -> web.StreamResponse:
    services, context = services_of(request), context_of(request)
    body = read_fields(request, data, ChatBody)
    info = context.info = services.model(plan.ladder[0], Kind.GENERATE)
    need_chat_template(info)
    services.bound_sequences(body.choices)
    job = await chat_job(services, context, info, body, cap=plan.max_output_tokens)
    told = context.simply(services.router, info, plan)
    try:
        return await respond(request, job, Simply(told, info))
    finally:
        services.router.account(told, plan.endpoint)
