"""An input of a classification and the exact cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.contract import Hit
from edge_runtime.cache.key import Question
from edge_runtime.cache.policy import parse_cache_control, use_for
from edge_runtime.core import ModelInfo
from edge_runtime.errors import UsageError
from edge_runtime.router.contract import Reason
from edge_runtime.server.classify_entry import DEFAULT_TOP_K

if TYPE_CHECKING:
    from edge_runtime.server.classify_course import ClassifyCourse
    from edge_runtime.server.classify_item import Item


def look_up(course: ClassifyCourse, item: Item) -> None:
    """Answer an input from the cache, if it may be and can."""
    router, told, info = course.services.router, item.case.told, course.context.info
    directives = parse_cache_control(course.request.headers.get("Cache-Control"))
    item.use = use_for({}, directives, ttl_s=router.exact_ttl_s, deterministic_by_nature=True)
    if router.exact is not None and info is not None and (item.use.read or item.use.keep):
        leading = next(one for one in course.infos if one is not None)
        question = _question(course, item, leading)
        found = router.look_up(question, item.use)
        assert found is not None, "there is a cache, and it may be used"
        told.cache = "hit" if isinstance(found, Hit) else "miss"
        told.cache_key = found.key.hex()
        if isinstance(found, Hit):
            _from_cache(course, item, found, leading)
            return
        item.ticket = found
    if item.use.only_if_cached:
        raise UsageError("nothing is kept for this request", code="not_cached", status=504)


def _question(course: ClassifyCourse, item: Item, info: ModelInfo) -> Question:
    holding = item.case.holdings[0]
    fields = {
        "model": course.body.model,
        "input": item.text,
        "top_k": course.body.top_k or DEFAULT_TOP_K,
        "cut": [course.body.truncate, course.body.truncate_prompt_tokens],
        "edge": {
            "endpoint": course.plan.endpoint,
            "policy": str(course.plan.rules.policy),
            "trust": str(item.case.ladder[0].trust),
            "certificate": None if holding.known is None else holding.known.digest,
        },
    }
    return Question("classify", info.model_digest, item.case.told.bill.payer.tenant, fields)


def _from_cache(course: ClassifyCourse, item: Item, hit: Hit, info: ModelInfo) -> None:
    answer = hit.answer
    row = item.case.told.bill.cache_row(
        answer,
        model_digest=info.model_digest,
        duration_us=course.since_us(),
        reason=str(Reason.CACHED),
    )
    item.case.from_cache(Reason.CACHED, row, by=answer.answered_by)
    item.answer = dict(answer.body)
    course.token_count += answer.tokens_in


def remember(course: ClassifyCourse, item: Item, entry: Mapping[str, Any]) -> None:
    """Keep an input's answer, in the background."""
    if item.ticket is None or not item.use.keep:
        return
    told, tag = item.case.told, course.context.wishes.tag
    answer = Answer(
        body=entry,
        tokens_in=len(next(iter(item.tokens.values()), ())),
        saved_nano=told.bill.cost_nano,
        answered_by=told.answered_by,
        score=told.bill.score(),
        tags=frozenset({tag} if tag else ()),
    )
    course.services.router.keep(item.ticket, answer, item.use)
