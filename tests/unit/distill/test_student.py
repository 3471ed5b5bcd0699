"""The student's recipe is one that the trainer and the exporter take."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle.escalation import Escalation
from edge_runtime.config_loader import toml_text
from edge_runtime.errors import UsageError
from export_tools.distill.kinds import StudentKind, Task
from export_tools.distill.question import Question
from export_tools.distill.student import KINDS, TEMPLATES, kind_of, student_recipe
from export_tools.recipe import read_recipe
from export_tools.train.recipe import SplitConfig, load_train_config

PLAIN = st.one_of(st.text(max_size=8), st.booleans(), st.integers(-(2**53), 2**53))
DOCUMENTS = st.dictionaries(
    st.text(max_size=6),
    st.recursive(
        PLAIN,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    ),
)


@given(DOCUMENTS)
def test_a_document_is_read_back_as_it_was(document: dict[str, Any]) -> None:
    assert tomllib.loads(toml_text(document)) == document


def test_null_is_refused() -> None:
    with pytest.raises(ValueError, match="no form in TOML"):
        toml_text({"a": [None]})


@pytest.mark.parametrize("task", list(Task))
def test_the_recipe_is_taken_by_trainer_and_exporter(task: Task, tmp_path: Path) -> None:
    parser = "label-text/1" if task is Task.CLASSIFY else "json/1"
    schema = {"type": "object", "properties": {"label": {}}}
    asked = Escalation(prompt='Say "é" \\ \n now', parser=parser, answer_schema=schema)  # type: ignore[arg-type]
    question = Question(task, asked, frozenset(["x"]), "")
    split = SplitConfig(salt="s", dev_percent=7, heldout_percent=9)
    path = tmp_path / "recipe.toml"
    path.write_text(student_recipe("small", KINDS[task], question, split, teachers=["a", "b"]))
    config = load_train_config(path)
    assert config.task == KINDS[task]
    assert (config.dataset, config.split) == ("small", split)
    recipe = read_recipe(path)
    assert recipe.escalation == asked
    assert recipe.needs_training
    assert recipe.licence.endswith("answers of a, b")


def test_a_schema_that_no_recipe_can_hold_is_refused() -> None:
    asked = Escalation(parser="json/1", answer_schema={"enum": ["a", None]})
    question = Question(Task.EXTRACT, asked, frozenset(["x"]), "")
    with pytest.raises(UsageError, match="cannot stand in a recipe"):
        student_recipe("a", StudentKind.ASSISTANT, question, SplitConfig(), teachers=["b"])


def test_every_kind_has_a_template_and_does_one_task() -> None:
    assert set(TEMPLATES) == set(StudentKind)
    assert kind_of(Task.CLASSIFY, None) is StudentKind.CLASSIFIER
    with pytest.raises(UsageError, match="of kind assistant, not classifier"):
        kind_of(Task.EXTRACT, StudentKind.CLASSIFIER)


def test_our_encoder_is_the_one_of_the_built_in_classifier(repository: Path) -> None:
    built_in = tomllib.loads((repository / "models/intent-clinc150/recipe.toml").read_text("utf-8"))
    assert TEMPLATES[StudentKind.CLASSIFIER]["source"] == built_in["source"]
