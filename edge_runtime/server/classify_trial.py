"""A trial of two classifiers: see `trials` for who is asked when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog

from edge_runtime.core import Kind, ModelInfo, RequestClass
from edge_runtime.errors import EdgeError
from edge_runtime.router.contract import Reason
from edge_runtime.router.escalate import read_label
from edge_runtime.router.watch.contract import HowToCompare, Pair, TrialPlan
from edge_runtime.server.classify_entry import ranked
from edge_runtime.server.classify_watch import book_beside
from edge_runtime.server.encoders import too_long
from edge_runtime.server.prompts import fit, to_tokens
from edge_runtime.server.trials import Heard, heard, lost_by, missing

if TYPE_CHECKING:
    from edge_runtime.server.classify_course import ClassifyCourse
    from edge_runtime.server.classify_item import Item

log: Final = structlog.get_logger("edge_runtime.server")


def pair(course: ClassifyCourse) -> None:
    """Pair the labels of both classifiers, once every input is answered."""
    trial, info = course.trial, course.context.info
    if trial is None or not trial.paired or info is None or info.escalation is None:
        return
    waiting: dict[str, list[Item]] = {}
    for item in course.items:
        old, new = _heard(course, item, trial.old), _heard(course, item, trial.new)
        name = missing(trial, old, new)
        if name is not None:
            waiting.setdefault(name, []).append(item)
        elif old is not None and new is not None:
            _told(course, item, trial, old, new)
    for name, items in waiting.items():
        course.services.router.background("trial", _ask(course, trial, name, items))


def _heard(course: ClassifyCourse, item: Item, name: str) -> Heard | None:
    labels = {rung: entry["label"] for rung, entry in item.answers.items()}
    return heard(course.plan, name, labels, item.case.tried)


async def _ask(course: ClassifyCourse, trial: TrialPlan, name: str, items: Sequence[Item]) -> None:
    try:
        said = await _labels(course, name, items)
    except EdgeError as error:
        log.warning("trial failed", action="trial_failed", model=name, reason=str(error))
        if not lost_by(error):
            return
        said = [None] * len(items)
    for item, label in zip(items, said, strict=True):
        late = Heard(label)
        if name == trial.old:
            _told(course, item, trial, late, _heard(course, item, trial.new))
        else:
            _told(course, item, trial, _heard(course, item, trial.old), late)


async def _labels(course: ClassifyCourse, name: str, items: Sequence[Item]) -> list[str | None]:
    """The labels a model gives the items' texts; None where a text is too long for it."""
    services = course.services
    info = services.model(name, Kind.CLASSIFY)
    batch = await _tokens(course, info, items)
    at = [index for index, tokens in enumerate(batch) if too_long(index, tokens, info) is None]
    if not at:
        return [None] * len(items)
    started_s = services.clock()
    logits = await services.host.encode(
        name,
        [batch[index] for index in at],
        request_class=RequestClass.BATCH,
        bundle_digest=info.bundle_digest,
    )
    taken_s = (services.clock() - started_s) / len(at)
    labels: list[str | None] = [None] * len(items)
    for index, entry in zip(at, ranked(logits, info, 1), strict=True):
        labels[index] = entry["label"]
        book_beside(course, items[index], info, len(batch[index]), taken_s)
    return labels


async def _tokens(
    course: ClassifyCourse, info: ModelInfo, items: Sequence[Item]
) -> list[tuple[int, ...]]:
    codec = course.services.host.codec(info.name)
    texts = [item.text for item in items]
    lists = await to_tokens(codec, texts, info, "input")
    cut_to = course.body.limit(info)
    if cut_to is None:
        return [tuple(tokens) for tokens in lists]
    return [fit(codec, text, one, cut_to) for text, one in zip(texts, lists, strict=True)]


def _told(
    course: ClassifyCourse, item: Item, trial: TrialPlan, old: Heard | None, new: Heard | None
) -> None:
    """Hand a pair to the watch, which asks the frontier where it has to."""
    watch, info = course.services.router.watch, course.context.info
    call = course.call(item, Reason.SHADOW)
    if watch is None or call is None or info is None or info.escalation is None:
        return
    assert old is not None, "an input without any answer was paired"
    assert new is not None, "an input without any answer was paired"
    escalation, labels = info.escalation, info.labels
    watch.pair(
        Pair(
            trial=trial.trial,
            request_id=item.case.told.bill.payer.request_id,
            old=old.answer,
            new=new.answer,
            how=HowToCompare.LABEL,
            read=lambda body: read_label(escalation, labels, body).label,
            call=call,
            may_leave=course.plan.may_leave,
            reference=item.frontier_label,
        )
    )
