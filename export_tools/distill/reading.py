"""What one captured answer says, or why nothing is learnt from it. Pure.

Rules
- An answer is read by the code that reads it in the daemon.
- What was refused, cut, of another form or outside the label set is dropped, never repaired.
"""

from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass

from edge_runtime.errors import UsageError
from edge_runtime.router.escalate import NoLabelError, read_label
from edge_runtime.router.schemas import AnswerForm, form_of
from export_tools.distill.exchanges import Exchange
from export_tools.distill.kinds import Task
from export_tools.distill.question import Question
from export_tools.train.data import Example, Slot
from export_tools.train.snips_score import parse_answer


class Drop(enum.StrEnum):
    """Why an exchange is not trained on."""

    TOOLS = "tools"
    CONVERSATION = "conversation"  # not one user message after at most one system message
    NO_TEXT = "no-text"
    OTHER_ENDPOINT = "other-endpoint"
    OTHER_QUESTION = "other-question"
    REFUSED = "refused"
    CUT = "cut"  # the answer reached its limit on tokens
    WRONG_FORM = "wrong-form"  # it fails its schema, or is no intent with slots
    NO_LABEL = "no-label"  # it names none of the labels
    NOT_IN_TEXT = "not-in-text"  # a slot's text is not in the question
    UNSURE = "unsure"  # below the least confidence that was asked for
    DISAGREEMENT = "disagreement"
    DUPLICATE = "duplicate"
    RARE = "rare-label"


@dataclass(frozen=True, slots=True)
class Taken:
    """A question with its answer: an `Example` whose confidence is the frontier's own."""

    example: Example
    at_us: int
    purpose: str
    reason: str
    teacher: str
    out_of_scope: bool = False


@dataclass(slots=True)
class Reader:
    """Reads exchanges as answers to one question; schemas are compiled once."""

    question: Question
    endpoints: frozenset[str] = frozenset()
    _form: AnswerForm | None = None

    def __post_init__(self) -> None:
        schema = self.question.schema
        self._form = form_of(json.loads(schema)) if schema else None
        if self._form is not None and not self._form.judged_here:
            raise UsageError("the answers' schema has regular expressions, which are not judged")

    def read(self, one: Exchange) -> Taken | Drop:
        """What an exchange says, or why it is dropped."""
        if self.endpoints and one.endpoint not in self.endpoints:
            return Drop.OTHER_ENDPOINT
        if one.odd is not None:
            return Drop(one.odd)
        if not self.question.asked_by(one):
            return Drop.OTHER_QUESTION
        if one.refused or one.content is None:
            return Drop.REFUSED
        if one.finish_reason == "length":
            return Drop.CUT
        if self._form is not None and self._form.problem(one.content) is not None:
            return Drop.WRONG_FORM
        text = self.question.text(one.user)
        assert text is not None  # it was asked
        confidence = 1.0 if one.logprob is None else math.exp(one.logprob)
        if self.question.task is Task.CLASSIFY:
            return self._label(one, one.content, text, confidence)
        return _slots(one, one.content, text, confidence)

    def _label(self, one: Exchange, content: str, text: str, confidence: float) -> Taken | Drop:
        body = {"choices": [{"message": {"content": content}}]}
        try:
            found = read_label(self.question.escalation, self.question.labels, body)
        except NoLabelError:
            return Drop.NO_LABEL
        example = Example(text, found.label, confidence=confidence)
        return _taken(example, one, out_of_scope=found.out_of_scope)


def _slots(one: Exchange, content: str, text: str, confidence: float) -> Taken | Drop:
    parse = parse_answer(content)
    if parse is None:
        return Drop.WRONG_FORM
    if not all(value and value in text for _, value in parse.slots):
        return Drop.NOT_IN_TEXT
    slots = tuple(Slot(slot, value) for slot, value in parse.slots)
    example = Example(text, parse.intent, slots, confidence=confidence)
    return _taken(example, one)


def _taken(example: Example, one: Exchange, *, out_of_scope: bool = False) -> Taken:
    teacher = one.model or one.frontier
    return Taken(example, one.at_us, one.purpose, one.reason, teacher, out_of_scope)
