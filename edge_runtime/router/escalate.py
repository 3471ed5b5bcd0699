"""A local request as a frontier chat, and the frontier's answer as ours. Pure.

See `edge_runtime.bundle.escalation` for the section of the bundle that says how.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.bundle.escalation import Escalation
from edge_runtime.router.contract import Json

LABEL_TOKENS = 64  # the longest a label's answer may be where the bundle names no limit
SCHEMA_NAME = "answer"


@dataclass(frozen=True, slots=True)
class LabelAnswer:
    """What a frontier said of a text: one of the bundle's labels, or out of scope."""

    label: str
    out_of_scope: bool = False


class NoLabelError(ValueError):
    """The frontier's answer names no label of the bundle."""


def classify_body(escalation: Escalation, labels: Sequence[str], text: str) -> dict[str, Any]:
    """The chat body that asks for the label of `text`."""
    prompt = escalation.prompt.replace("{labels}", "\n".join(labels))
    system = [{"role": "system", "content": prompt}] if prompt else []
    body: dict[str, Any] = {
        "messages": [
            *system,
            {"role": "user", "content": escalation.user.replace("{input}", text)},
        ],
        "temperature": 0,
    }
    return with_schema(body, escalation)


def chat_body(
    escalation: Escalation | None, body: Json, messages: Sequence[Json]
) -> dict[str, Any]:
    """The body of a caller's chat with the bundle's prompt before it.

    A caller's own system message is kept, after the bundle's.
    """
    plain = {**body, "messages": list(messages)}
    if escalation is None:
        return plain
    if escalation.prompt:
        plain["messages"] = [{"role": "system", "content": escalation.prompt}, *messages]
    return plain if "response_format" in plain else with_schema(plain, escalation)


def with_schema(body: Mapping[str, Any], escalation: Escalation) -> dict[str, Any]:
    """The body asking for answers of the bundle's schema, where it has one."""
    if escalation.answer_schema is None:
        return dict(body)
    schema = {"name": SCHEMA_NAME, "schema": escalation.answer_schema, "strict": True}
    return {**body, "response_format": {"type": "json_schema", "json_schema": schema}}


def content_of(body: Json) -> str:
    """The text of the first choice of a chat answer. Raises `ValueError` where there is none."""
    try:
        content = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the answer has no message") from error
    if not isinstance(content, str):
        raise ValueError("the answer has no text")  # noqa: TRY004  # of its content
    return content


def read_label(escalation: Escalation, labels: Sequence[str], body: Json) -> LabelAnswer:
    """The label a chat answer names. Raises `NoLabelError` saying what is wrong with it."""
    try:
        said = said_label(escalation, content_of(body))
    except ValueError as error:
        raise NoLabelError(str(error)) from error
    scope = escalation.out_of_scope
    if scope is not None and _among(said, scope.answers) is not None:
        return LabelAnswer(scope.label, out_of_scope=True)
    label = _among(said, labels)
    if label is None:
        mapped = _among(said, tuple(escalation.answers))
        label = None if mapped is None else escalation.answers[mapped]
    if label is None:
        raise NoLabelError(f"{said[:80]!r} is none of the {len(labels)} labels")
    return LabelAnswer(label)


def label_problem(escalation: Escalation, labels: Sequence[str], body: Json) -> str | None:
    """`FrontierCall.accept` for a classifier's questions."""
    try:
        read_label(escalation, labels, body)
    except NoLabelError as error:
        return str(error)
    return None


def said_label(escalation: Escalation, content: str) -> str:
    """The label that an answer's text names, known or not. Raises `ValueError` for none."""
    if escalation.parser == "label-text/1":
        return content.strip()
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ValueError("the answer is not JSON") from error
    label = value.get("label") if isinstance(value, dict) else None
    if not isinstance(label, str):
        raise ValueError('the answer has no text under "label"')  # noqa: TRY004  # of its content
    return label.strip()


def _among(said: str, known: Sequence[str]) -> str | None:
    """The known text that was said, whatever its case."""
    if said in known:
        return said
    folded = said.casefold()
    return next((one for one in known if one.casefold() == folded), None)
