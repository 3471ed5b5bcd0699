"""A request as a frontier chat, and the answer back as ours; by the sections the models ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge_runtime.bundle.escalation import Escalation
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.router.escalate import (
    LabelAnswer,
    NoLabelError,
    chat_body,
    classify_body,
    label_problem,
    read_label,
)
from export_tools.build import escalation_section
from export_tools.recipe import read_recipe

MODELS = Path(__file__).parents[3] / "models"
LABELS = ("balance", "alarm")


def section(**changes: Any) -> Escalation:
    fields = {
        "prompt": "One of:\n{labels}",
        "parser": "label-json/1",
        "answers": {"money left": "balance"},
        "out_of_scope": {"answers": ["none"], "label": "oos"},
    }
    return Escalation.model_validate(fields | changes)


def reply(content: object) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


def test_a_text_becomes_a_chat_with_the_labels_in_its_prompt() -> None:
    body = classify_body(section(user="<{input}>"), LABELS, "{labels} wake me")
    assert body["messages"] == [
        {"role": "system", "content": "One of:\nbalance\nalarm"},
        {"role": "user", "content": "<{labels} wake me>"},
    ]
    assert body["temperature"] == 0


def test_the_schema_is_sent_where_the_bundle_has_one() -> None:
    schema = {"type": "object"}
    body = classify_body(section(answer_schema=schema), LABELS, "x")
    assert body["response_format"]["json_schema"]["schema"] == schema
    own = {"response_format": {"type": "json_object"}}
    kept = chat_body(Escalation(parser="json/1", answer_schema=schema), own, [])
    assert kept["response_format"] == {"type": "json_object"}, "the caller's own form wins"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("balance", LabelAnswer("balance")),
        (" Alarm ", LabelAnswer("alarm")),
        ("money left", LabelAnswer("balance")),
        ("none", LabelAnswer("oos", out_of_scope=True)),
    ],
)
def test_answers_become_labels(said: str, answer: LabelAnswer) -> None:
    assert read_label(section(), LABELS, reply(json.dumps({"label": said}))) == answer
    plain = section(parser="label-text/1")
    assert read_label(plain, LABELS, reply(said)) == answer


@pytest.mark.parametrize(
    "body",
    [
        reply('{"label": "banana"}'),
        reply('{"label": 3}'),
        reply('["balance"]'),
        reply("balance"),
        reply(None),
        {"choices": []},
        {},
    ],
)
def test_what_names_no_label_is_refused_with_a_reason(body: dict[str, Any]) -> None:
    assert label_problem(section(), LABELS, body)
    with pytest.raises(NoLabelError):
        read_label(section(), LABELS, body)


def test_out_of_scope_is_no_label_unless_mapped() -> None:
    bare = section(out_of_scope=None)
    assert label_problem(bare, LABELS, reply('{"label": "none"}'))


@pytest.mark.parametrize(
    "changes",
    [{"user": "no place"}, {"parser": "json/1"}, {"parser": "yaml/1"}, {"colour": "red"}],
)
def test_sections_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section(**changes)


@pytest.mark.parametrize("name", ["intent-clinc150", "assistant"])
def test_the_shipped_recipes_say_how_to_escalate(name: str) -> None:
    escalation = read_recipe(MODELS / name / "recipe.toml").escalation
    assert escalation is not None
    assert escalation.labels == (name == "intent-clinc150")
    again = Escalation.model_validate(escalation_section(escalation))
    assert again == escalation


def test_the_intent_bundle_carries_its_recipes_section() -> None:
    manifest = load_manifest(MODELS / "intent-clinc150" / "bundle")
    recipe = read_recipe(MODELS / "intent-clinc150" / "recipe.toml")
    assert manifest.escalation == recipe.escalation
    assert manifest.release == recipe.release
    assert manifest.escalation is not None
    body = classify_body(manifest.escalation, manifest.labels, "how much is left")
    assert "\nbalance\n" in body["messages"][0]["content"]
