"""An input of a classification that goes to the frontiers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edge_runtime.core import ModelInfo
from edge_runtime.router.contract import FrontierError, FrontierWhy, Policy, Reason
from edge_runtime.router.escalate import read_label
from edge_runtime.server import classify_cache, classify_watch

if TYPE_CHECKING:
    from edge_runtime.server.classify_course import ClassifyCourse
    from edge_runtime.server.classify_item import Item


async def escalate(
    course: ClassifyCourse, item: Item, reason: Reason, places: asyncio.Semaphore
) -> None:
    """Ask the frontiers for an input's label; the case hears of it when none answers."""
    frontiers = course.services.router.frontiers
    assert frontiers is not None, "escalated without frontiers"
    item.case.escalating(reason)
    call = course.call(item, reason)
    info = course.context.info
    assert info is not None
    if call is None or info.escalation is None:
        item.case.frontier_failed(_no_way(info))
        return
    try:
        async with places:
            reply = await frontiers.complete(call)
    except FrontierError as error:
        item.case.frontier_failed(error)
        return
    said = read_label(info.escalation, info.labels, reply.body)
    item.frontier_label = said.label
    item.case.escalated(reason, reply)
    course.token_count += 0 if item.answers else len(item.tokens.get(0, ()))
    item.answer = {"label": said.label, "score": None, "labels": []}
    if said.out_of_scope:
        item.answer["out_of_scope"] = True
    classify_cache.remember(course, item, item.answer)
    classify_watch.escalated(course, item, reason, said.label)
    if course.plan.rules.policy is Policy.SHADOW:
        classify_watch.shadow(course, item, said.label)


def _no_way(info: ModelInfo) -> FrontierError:
    return FrontierError(
        FrontierWhy.NONE_CONFIGURED,
        f"the bundle of {info.name} has no section `escalation`: nobody can be asked its labels",
    )
