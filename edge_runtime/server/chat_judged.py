"""Chat answers under judgement: their form and their score."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from edge_runtime.bundle.escalation import Escalation
from edge_runtime.errors import EngineError
from edge_runtime.router.contract import Accept, Json
from edge_runtime.router.schemas import AnswerForm
from edge_runtime.router.trust import Holding
from edge_runtime.server.chat_stream import texts
from edge_runtime.server.generation import Collected, Job
from edge_runtime.server.logprobs import is_end_mark
from edge_runtime.stats.scores import token_score

if TYPE_CHECKING:
    from edge_runtime.server.chat_course import ChatCourse

log: Final = structlog.get_logger("edge_runtime.server")

RETRY_TEMPERATURE = 0.7  # a greedy try would only say the same again


def redrawn(job: Job, retry: int) -> Job:
    """The job for a further try: other seeds, and no longer greedy."""
    if retry == 0:
        return job
    requests = [
        replace(
            one,
            request_id=f"{one.request_id}~{retry}",
            params=replace(
                one.params,
                temperature=one.params.temperature or RETRY_TEMPERATURE,
                seed=(one.params.seed or 0) + retry * len(job.requests),
            ),
        )
        for one in job.requests
    ]
    return replace(job, requests=requests)


def problem_of(found: Collected, form: AnswerForm | None) -> EngineError | None:
    """What is wrong with the form of a local answer."""
    if form is None:
        return None
    for text in texts(found.body()):
        problem = form.problem(text)
        if problem is not None:
            return EngineError(f"the local model's answer has not the wanted form: {problem}")
    return None


def score_of(found: Collected, holding: Holding | None) -> float | None:
    """The score of an answer by its certificate's definition; None where none judges.

    An answer that was cut off scores 0: certificates count it as wrong.
    """
    if holding is None or holding.known is None:
        return None
    shape, events = found.job.shape, found.of(0)
    codec = getattr(shape, "codec")  # noqa: B009  # only chat answers are scored
    logprobs = [
        event.logprob
        for event in events
        if event.token_id is not None
        and event.logprob is not None
        and not is_end_mark(codec, event)
    ]
    ended = bool(events) and events[-1].finish_reason == "stop"
    if not logprobs or not ended:
        return 0.0
    return token_score(logprobs, holding.known.certificate.score.parameters)


def acceptance(form: AnswerForm | None, escalation: Escalation | None) -> Accept | None:
    """What makes a frontier's answer acceptable; None takes any."""
    wanted = form
    if wanted is None and escalation is not None and escalation.parser == "json/1":
        schema = escalation.answer_schema
        kind = {"type": "json_object"}
        wanted = AnswerForm(
            kind if schema is None else {"type": "json_schema", "json_schema": {"schema": schema}}
        )
    if wanted is None:
        return None
    judged = wanted

    def accept(body: Json) -> str | None:
        for choice in body.get("choices", ()):
            message = choice.get("message") or {}
            if message.get("tool_calls"):
                continue
            problem = judged.problem(message.get("content") or "")
            if problem is not None:
                return problem
        return None

    return accept


def resolved(course: ChatCourse) -> None:
    """An answer of the form its caller asked for implies that the task is resolved."""
    if course.asked.form is not None:
        payer = course.case.told.bill.payer
        course.services.router.till.implied(payer, resolved=True, source="schema")
