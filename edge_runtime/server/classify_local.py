"""Inputs of a classification that a local model labels, as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_runtime.core import ModelInfo
from edge_runtime.errors import EdgeError
from edge_runtime.ledger.energy.account import share
from edge_runtime.ledger.rows import Status, Tokens
from edge_runtime.router.case import fault_of
from edge_runtime.router.contract import Reason
from edge_runtime.router.till import Work
from edge_runtime.server.classify_entry import ranked
from edge_runtime.server.classify_item import Item
from edge_runtime.server.encoders import work_of
from edge_runtime.stats.scores import classifier_scores

if TYPE_CHECKING:
    from edge_runtime.server.classify_course import ClassifyCourse


async def attempt(course: ClassifyCourse, rung: int, batch: Sequence[Item]) -> None:
    """Label the batch with the model of a rung; each case hears its score, or the fault."""
    info = course.infos[rung]
    assert info is not None
    tokens = [item.tokens[rung] for item in batch]
    try:
        logits = await course.services.host.encode(
            info.name,
            tokens,
            request_class=course.context.request_class,
            bundle_digest=info.bundle_digest,
        )
    except EdgeError as error:
        _failed(course, rung, batch, error)
        return
    course.token_count += sum(len(one) for one in tokens)
    works = _works(course, info, tokens)
    entries = ranked(logits, info, course.body.top_k)
    for at, (item, entry, work) in enumerate(zip(batch, entries, works, strict=True)):
        holding = item.case.certificate_at(rung)
        score: float | None = None
        if holding is not None and holding.known is not None:
            name = holding.known.certificate.score.name
            score = float(classifier_scores(name, logits[at : at + 1])[0])
        task = course.plan.task_of(info.name)
        item.case.told.bill.local(info, work, rung=rung, score=score, task=task)
        item.case.answered(rung, score)
        item.answers[rung] = entry


def _works(course: ClassifyCourse, info: ModelInfo, tokens: Sequence[Sequence[int]]) -> list[Work]:
    """A batch's work, shared among its inputs by their tokens."""
    whole = work_of(course.services, course.context, info, tokens)
    counts = [len(one) for one in tokens]
    busy = share(whole.busy_us, counts)
    return [
        Work(Tokens(count), part, whole.duration_us)
        for count, part in zip(counts, busy, strict=True)
    ]


def _failed(course: ClassifyCourse, rung: int, batch: Sequence[Item], error: Exception) -> None:
    fault = fault_of(error, late=course.context.late(course.services.clock()))
    if fault is None or course.plan.plain:
        raise error
    for item in batch:
        if fault is Reason.LOCAL_FAULT:
            info = item.case.info(rung)
            work = Work(Tokens(len(item.tokens[rung])), 0, course.since_us())
            item.case.told.bill.local(info, work, rung=rung, status=Status.ERROR)
        item.case.failed(rung, fault, error)
