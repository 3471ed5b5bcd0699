"""Which question a student is to answer. Pure.

All exchanges of one training set put the same question: the same instructions, the same form of
answer. With the recipe of the model that escalated, its `escalation` section says which; without
one, the capture must hold a single question.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.escalation import Escalation
from edge_runtime.errors import UsageError
from edge_runtime.router.escalate import said_label, with_schema
from edge_runtime.router.frontier.redact import redact, redact_json
from export_tools.distill.exchanges import Exchange
from export_tools.distill.kinds import Task
from export_tools.train.snips_score import parse_answer

MAX_LABELS = 10_000
MAX_LABEL_CHARS = 128


@dataclass(frozen=True, slots=True)
class Question:
    """The question of one training set.

    `systems` are the system messages that put it, `labels` what a classifier may answer.
    """

    task: Task
    escalation: Escalation
    systems: frozenset[str]
    schema: str
    labels: tuple[str, ...] = ()

    def asked_by(self, one: Exchange) -> bool:
        """Whether an exchange puts this question."""
        return (
            one.schema == self.schema
            and one.system in self.systems
            and self.text(one.user) is not None
        )

    def text(self, user: str) -> str | None:
        """The utterance in a user message; None when it is not made by this question's pattern."""
        before, found, after = self.escalation.user.partition("{input}")
        if not found or self.task is Task.EXTRACT:
            return user.strip()
        inside = user.startswith(before) and user.endswith(after)
        text = user[len(before) : len(user) - len(after)].strip()
        return text if inside and text else None


def question_of_recipe(
    escalation: Escalation, exchanges: Iterable[Exchange], task: Task | None
) -> Question:
    """The question that a model's escalation puts; its labels are read from the prompts.

    Raises `UsageError` when the task is another, or nobody asked it.
    """
    found = Task.CLASSIFY if escalation.labels else Task.EXTRACT
    if task is not None and task != found:
        raise UsageError(f"the recipe's escalation is of task {found}, not {task}", param="task")
    if escalation.parser == "text/1":
        raise UsageError(
            "the recipe's escalation gives plain text: only labels, and intents with slots, can be "
            "distilled",
            param="recipe",
        )
    schema = _schema_sent(escalation)
    # Prompts were redacted when they were kept.
    parts = [re.escape(redact(part)) for part in escalation.prompt.split("{labels}")]
    pattern = re.compile(r"([\s\S]*?)".join(parts))
    matches = {
        system: match
        for system in {one.system for one in exchanges if one.odd is None and one.schema == schema}
        if (match := pattern.fullmatch(system)) is not None
    }
    if not matches:
        raise UsageError(
            "no captured exchange puts the question of this recipe: was its escalation section "
            "changed since, or are these another model's captures?",
            param="recipe",
        )
    lines = [match[1].splitlines() for match in matches.values() if match.groups()]
    labels = tuple(dict.fromkeys(line for group in lines for line in group if line))
    if found is Task.CLASSIFY and not labels:
        raise UsageError("the recipe's prompt has no {labels}, so they are not known")
    return Question(found, escalation, frozenset(matches), schema, labels)


def question_of_capture(exchanges: Collection[Exchange], task: Task | None) -> Question:
    """The one question that a capture holds, without the recipe of who asked it.

    Raises `UsageError` when it holds several or none, or when its answers do not say the task.
    """
    found = Counter((one.system, one.schema) for one in exchanges if one.odd is None)
    if not found:
        raise UsageError("holds no question that stands alone: nothing can be distilled from it")
    if len(found) > 1:
        shown = "; ".join(f"{count} x {key[0][:60]!r}" for key, count in found.most_common(5))
        raise UsageError(
            f"the capture holds {len(found)} different questions ({shown}): choose one with "
            "--recipe or --endpoint"
        )
    ((system, schema),) = found
    answers = [one.content for one in exchanges if one.odd is None and one.content is not None]
    parser, seen = _form_of_answers(answers, task)
    try:
        escalation = Escalation(prompt=system, parser=parser, answer_schema=_inner_schema(schema))
    except ValidationError as error:
        raise UsageError(f"the system message cannot be kept: {error.errors()[0]['msg']}") from None
    if seen is Task.EXTRACT:
        return Question(seen, escalation, frozenset([system]), schema)
    labels: Counter[str] = Counter()
    for content in answers:
        try:
            labels[said_label(escalation, content)] += 1
        except ValueError:
            continue
    known = [label for label, _ in labels.most_common(MAX_LABELS) if len(label) <= MAX_LABEL_CHARS]
    return Question(seen, escalation, frozenset([system]), schema, tuple(known))


def _form_of_answers(
    answers: Sequence[str], task: Task | None
) -> tuple[Literal["label-json/1", "label-text/1", "json/1"], Task]:
    """Parser and task by what most answers are."""
    kinds: Counter[Task | None] = Counter()
    for content in answers[:1000]:
        try:
            value: Any = json.loads(content)
        except ValueError:
            value = None
        if parse_answer(content) is not None:
            kinds[Task.EXTRACT] += 1
        elif isinstance(value, dict) and isinstance(value.get("label"), str):
            kinds[Task.CLASSIFY] += 1
        else:
            kinds[None] += 1
    most = kinds.most_common(1)[0][0] if kinds else None
    if (task or most) is Task.EXTRACT:
        return "json/1", Task.EXTRACT
    if most is Task.CLASSIFY:
        return "label-json/1", Task.CLASSIFY
    if task is Task.CLASSIFY:
        return "label-text/1", Task.CLASSIFY
    raise UsageError(
        'most answers are neither {"label": ...} nor {"intent": ..., "slots": [...]}: '
        "name the task with --task, or the model that asked with --recipe",
        param="task",
    )


def _schema_sent(escalation: Escalation) -> str:
    sent = with_schema({}, escalation).get("response_format")
    return "" if sent is None else canonical_bytes(redact_json(sent)).decode()


def _inner_schema(schema: str) -> dict[str, Any] | None:
    if not schema:
        return None
    found = json.loads(schema).get("json_schema", {}).get("schema")
    return found if isinstance(found, dict) else None
