"""A trial of two generators: see `trials` for who is asked when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from edge_runtime.core import Kind
from edge_runtime.errors import EdgeError
from edge_runtime.router.contract import Reason
from edge_runtime.router.escalate import content_of
from edge_runtime.router.watch.contract import Pair, TrialPlan
from edge_runtime.server.chat import need_chat_template
from edge_runtime.server.chat_judged import problem_of
from edge_runtime.server.chat_stream import texts
from edge_runtime.server.chat_watch import ask_beside, how_to_compare
from edge_runtime.server.trials import Heard, heard, lost_by, missing

if TYPE_CHECKING:
    from edge_runtime.server.chat_course import ChatCourse

log: Final = structlog.get_logger("edge_runtime.server")


def pair(course: ChatCourse) -> None:
    """Pair the answers of both generators, once the caller has its own."""
    trial = course.trial
    if trial is None or not trial.paired:
        return
    said = {rung: texts(found.body())[0] for rung, found in course.collected.items()}
    tried = course.case.tried
    old, new = (heard(course.plan, name, said, tried) for name in (trial.old, trial.new))
    name = missing(trial, old, new)
    if name is not None:
        work = _ask(course, trial, name, old, new)
        course.services.router.background("trial", work)
    elif old is not None and new is not None:
        _told(course, trial, old, new)


async def _ask(
    course: ChatCourse, trial: TrialPlan, name: str, old: Heard | None, new: Heard | None
) -> None:
    try:
        late = Heard(await _answer(course, name))
    except EdgeError as error:
        log.warning("trial failed", action="trial_failed", model=name, reason=str(error))
        if not lost_by(error):
            return
        late = Heard(None)
    _told(course, trial, old or late, new or late)


async def _answer(course: ChatCourse, name: str) -> str | None:
    """What a model says; None where it has not the form that was asked for."""
    info, body = course.services.model(name, Kind.GENERATE), course.asked.body
    need_chat_template(info)
    assert body is not None, "a request that no local model serves was paired"
    found = await ask_beside(course, info, body)
    return None if problem_of(found, course.asked.form) else texts(found.body())[0]


def _told(course: ChatCourse, trial: TrialPlan, old: Heard, new: Heard) -> None:
    """Hand the pair to the watch, which asks the frontier where it has to."""
    watch, info = course.services.router.watch, course.own_info()
    if watch is None or info is None:
        return
    watch.pair(
        Pair(
            trial=trial.trial,
            request_id=course.case.told.bill.payer.request_id,
            old=old.answer,
            new=new.answer,
            how=how_to_compare(info, course),
            read=content_of,
            call=course.call(Reason.SHADOW),
            may_leave=course.plan.may_leave,
            reference=_reference(course),
        )
    )


def _reference(course: ChatCourse) -> str | None:
    if course.reply is None:
        return None
    try:
        return content_of(course.reply.body)
    except ValueError:
        return None
