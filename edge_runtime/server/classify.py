"""POST /v1/classify.

A request with one local model and nothing to decide is one row of the ledger, however many inputs
it has; any other goes its course: see `classify_course`.
"""

from __future__ import annotations

from aiohttp import web

from edge_runtime.core import Kind
from edge_runtime.server.body import parse_object, read_bytes, read_fields
from edge_runtime.server.classify_course import ClassifyCourse
from edge_runtime.server.classify_entry import ClassifyBody, ranked, since_ms
from edge_runtime.server.context import context_of, services_of
from edge_runtime.server.encoders import encode
from edge_runtime.server.replies import json_reply


async def classify(request: web.Request) -> web.StreamResponse:
    """Label one text or many, best label first."""
    services, context = services_of(request), context_of(request)
    own = context.own_time(services)
    with own.away():
        raw = await read_bytes(request)
    body = read_fields(request, parse_object(raw), ClassifyBody)
    plan = services.plan(body.model, context.wishes)
    if plan.plain and services.router.exact is None:
        own.observe(services.metrics, context.route)
        info = services.model(plan.ladder[0], Kind.CLASSIFY)
        encoded = await encode(request, body, info)
        entries = ranked(encoded.rows, info, body.top_k)
        data = [{"index": index, **entry} for index, entry in enumerate(entries)]
        usage = encoded.usage()
        edge = context.edge({"total_ms": since_ms(services, context)})
        return json_reply(
            {"object": "list", "model": info.name, "data": data, "usage": usage, "edge": edge}
        )
    return await ClassifyCourse(request, services, context, plan, body, own).run()
