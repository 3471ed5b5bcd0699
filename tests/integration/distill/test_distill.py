"""`edge-export distill` on captures that the daemon's own writer made."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_runtime.bundle.capture_file import read_key, segments
from edge_runtime.config_loader import toml_text
from edge_runtime.errors import BundleError, ConfigError, UsageError
from edge_runtime.router.frontier.memory import completion
from export_tools.certify.traffic import answer_of, read_examples
from export_tools.cli import app
from export_tools.distill.command import Distillation, DistillRequest, distill
from export_tools.distill.kinds import StudentKind, Task
from export_tools.distill.reading import Drop
from export_tools.recipe import read_recipe
from export_tools.train.data import read_examples as read_rows
from export_tools.train.data import split_examples
from export_tools.train.recipe import load_train_config
from tests.support.captures import CLASSIFY, EXTRACT, asked, by_hand, captured, extracted

SAID = {"light_on": "lights on in", "light_off": "lights off in", "music": "play music in"}
ROOMS = [f"{size} {room}" for size in ("big", "small", "old", "new", "red", "warm", "cold", "far")
         for room in ("kitchen", "hall", "attic", "bath", "cellar")]  # fmt: skip
QUESTIONS = [asked(f"{words} the {room}", label) for label, words in SAID.items() for room in ROOMS]


def drops(result: Distillation) -> dict[str, int]:
    return dict(result.summary()["dropped"])


@pytest.fixture
def request_(tmp_path: Path) -> DistillRequest:
    folder, key = captured(tmp_path, QUESTIONS, max_segment_bytes=8192, max_record_bytes=4096)
    assert len(segments(folder)) > 3
    return DistillRequest((folder,), (key,), tmp_path / "student")


def recipe_file(folder: Path, escalation: Any, **more: Any) -> Path:
    path = folder / "asker.toml"
    head = {"schema": 1, "name": "asker", "kind": "classify", "licence": "CC0-1.0", "release": 4}
    source = {"source": {"kind": "trained"}}
    section = escalation.model_dump(mode="json", exclude_defaults=True)
    path.write_text(toml_text(head | source | more | {"escalation": section}))
    return path


def test_a_capture_becomes_data_that_training_divides_alike(request_: DistillRequest) -> None:
    result = distill(request_)
    out = request_.out
    assert out is not None
    config = load_train_config(out / "recipe.toml")
    rows = read_rows(out / "data" / config.dataset / "train.jsonl")
    assert len(rows) == 120
    assert {row.intent for row in rows} == set(SAID)
    split = split_examples(rows, config.split)
    assert split == result.split
    assert [one.text for one in read_examples([out / "heldout.jsonl"])] == [
        one.text for one in split.heldout
    ]
    report = json.loads((out / "report.json").read_text())
    assert report["capture"]["exchanges"] == 120
    assert report["capture"]["models"] == {"big: memory": 120}
    assert report["capture"]["from"] == "2026-11-22"
    assert report["rows"]["train"] + report["rows"]["dev"] + report["rows"]["heldout"] == 120
    assert report["dropped"] == {}
    assert "agreement with it, not truth" in report["notes"][0]
    assert "harder than the traffic" in report["notes"][1]
    assert {path.stat().st_mode & 0o077 for path in (out, *out.rglob("*"))} == {0}


def test_the_recipe_asks_the_same_question_and_names_the_teacher(request_: DistillRequest) -> None:
    distill(request_)
    assert request_.out is not None
    recipe = read_recipe(request_.out / "recipe.toml")
    assert recipe.kind == "classify"
    assert recipe.escalation is not None
    assert recipe.escalation.parser == "label-json/1"
    assert recipe.escalation.answer_schema == CLASSIFY.answer_schema
    assert "light_on\nlight_off\nmusic" in recipe.escalation.prompt
    assert recipe.licence.endswith("distilled from answers of memory")


def test_a_predecessors_recipe_gives_labels_training_and_escalation(
    request_: DistillRequest, tmp_path: Path, repository: Path
) -> None:
    base = tomllib.loads((repository / "models/intent-clinc150/recipe.toml").read_text("utf-8"))
    path = recipe_file(tmp_path, CLASSIFY, train=base["train"], source=base["source"])
    extra = [asked(f"what is love {n}", "none") for n in ("a", "b")]
    extra += [asked("sing a song", "dance"), asked("turn it up", "Music")]
    again = tmp_path / "again"
    again.mkdir()
    folder, key = captured(again, [*QUESTIONS, *extra])
    result = distill(replace(request_, captures=(folder,), keys=(key,), recipe=path))
    assert drops(result) == {Drop.NO_LABEL: 1}
    assert result.summary()["rows"]["out_of_scope"] == 2
    assert result.summary()["labels"]["music"] == 41
    assert request_.out is not None
    made = tomllib.loads((request_.out / "recipe.toml").read_text("utf-8"))
    assert made["escalation"] == CLASSIFY.model_dump(mode="json", exclude_defaults=True)
    assert made["release"] == 5
    assert made["source"] == base["source"]
    assert made["train"]["loop"] == base["train"]["loop"]
    outside = read_examples([request_.out / "oos.jsonl"], out_of_scope=True)
    assert [one.text for one in outside] == ["what is love a", "what is love b"]


def test_what_is_not_worth_training_on_is_dropped_and_told(
    request_: DistillRequest, tmp_path: Path
) -> None:
    refused = completion('{"label": "music"}')
    refused["choices"][0]["message"] |= {"content": None, "refusal": "I cannot"}
    cut = completion('{"label": "mu')
    cut["choices"][0]["finish_reason"] = "length"
    body = asked("hum", "music")["body"]
    talk = {**body, "messages": [*body["messages"], {"role": "user", "content": "and now?"}]}
    bad = [
        asked("hum a tune", "", answer=refused),
        asked("hum a song", "", answer=cut),
        asked("hum", "", answer=completion("I think it is music")),
        asked("hum", "", answer=completion('{"labels": ["music"]}')),
        asked("hum", "music", body=talk),
        asked("hum", "music", body=body | {"tools": [{"type": "function"}]}),
        asked("lights ON in the big kitchen!", "light_off"),
    ]
    again = tmp_path / "again"
    again.mkdir()
    folder, key = captured(again, [*QUESTIONS, *bad])
    result = distill(replace(request_, captures=(folder,), keys=(key,)))
    assert drops(result) == {
        Drop.REFUSED: 1, Drop.CUT: 1, Drop.WRONG_FORM: 2, Drop.CONVERSATION: 1, Drop.TOOLS: 1,
        Drop.DISAGREEMENT: 2,
    }  # fmt: skip
    assert result.inventory.refused == 1
    assert result.inventory.cut == 1
    assert result.summary()["rows"]["train"] > 80


def test_slots_become_an_assistants_rows(tmp_path: Path) -> None:
    exchanges = [
        extracted(f"play {song} by {who}", "Play", [("song", song), ("artist", who)])
        for song in ("hello", "yellow", "clocks", "halo", "creep", "black", "alive")
        for who in ("adele", "bach", "mozart", "verdi")
    ]
    exchanges.append(extracted("play thriller", "Play", [("artist", "michael")]))
    folder, key = captured(tmp_path, exchanges)
    path = recipe_file(tmp_path, EXTRACT)
    request = DistillRequest((folder,), (key,), tmp_path / "out", recipe=path, heldout_percent=30)
    request = replace(request, dev_percent=20)
    result = distill(request)
    assert (result.question and result.question.task, result.kind) == (
        Task.EXTRACT, StudentKind.ASSISTANT,
    )  # fmt: skip
    assert drops(result) == {Drop.NOT_IN_TEXT: 1}
    config = load_train_config(tmp_path / "out" / "recipe.toml")
    assert config.task == "assistant"
    rows = read_rows(tmp_path / "out" / "data" / "asker" / "train.jsonl")
    assert len(rows) == 28
    assert all(len(row.slots) == 2 for row in rows)
    held = read_examples([tmp_path / "out" / "heldout.jsonl"], right=answer_of)
    assert json.loads(held[0].label or "")["intent"] == "Play"
    with pytest.raises(UsageError, match="not classifier"):
        distill(replace(request, out=tmp_path / "b", kind=StudentKind.CLASSIFIER))
    without = distill(replace(request, out=tmp_path / "c", recipe=None))
    assert without.summary()["rows"] == result.summary()["rows"]


def test_how_sure_a_frontier_was_becomes_a_soft_label(tmp_path: Path) -> None:
    doubtful = [dict(one) for one in QUESTIONS]
    for one in doubtful[:60]:
        choice = {**one["answer"]["choices"][0], "logprobs": {"content": [{"logprob": -0.5}]}}
        one["answer"] = {**one["answer"], "choices": [choice]}
    folder, key = captured(tmp_path, doubtful)
    result = distill(DistillRequest((folder,), (key,), tmp_path / "out"))
    assert result.summary()["soft_labels"] == 60
    rows = read_rows(tmp_path / "out" / "data" / "out" / "train.jsonl")
    assert sorted({row.confidence for row in rows}) == [0.6065, 1.0]


def test_without_permission_nothing_is_made(request_: DistillRequest) -> None:
    (folder,) = request_.captures
    record = {"messages": [{"role": "user", "content": "x"}], "at_us": 1}
    by_hand(folder, read_key(request_.keys[0]), [record | {"training_allowed": "yes"}])
    with pytest.raises(UsageError, match="record 0: does not say that its frontier's terms allow"):
        distill(request_)
    assert not request_.out or not request_.out.exists()


def test_a_wrong_key_and_a_cut_file_lose_nothing(request_: DistillRequest, tmp_path: Path) -> None:
    (folder,) = request_.captures
    before = {path: path.read_bytes() for path in segments(folder)}
    other = tmp_path / "other.key"
    other.write_text("ab" * 32)
    with pytest.raises(BundleError, match="another key"):
        distill(replace(request_, keys=(other,)))
    with pytest.raises(ConfigError, match="name the file"):
        distill(replace(request_, keys=(tmp_path / "gone",)))
    last = segments(folder)[-1]
    last.write_bytes(before[last][:-7])
    with pytest.raises(BundleError, match=r"ends within record \d+.*--take-cut"):
        distill(request_)
    assert [path.name for path in tmp_path.iterdir() if "distill" in path.name] == []
    assert {path: path.read_bytes() for path in before if path != last} == {
        path: data for path, data in before.items() if path != last
    }
    result = distill(replace(request_, take_cut=True))
    assert result.inventory.exchanges == 119


def test_boxes_have_keys_of_their_own(request_: DistillRequest, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    folder, key = captured(again, [asked("sing in the hall", "music")])
    both = replace(request_, captures=(folder, *request_.captures), keys=(key, *request_.keys))
    assert distill(both).inventory.exchanges == 121


def test_several_questions_are_not_mixed(request_: DistillRequest, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    other = [extracted(f"play {n}", "Play", [], endpoint="player") for n in "abcdefgh"]
    folder, key = captured(again, [*QUESTIONS, *other])
    mixed = replace(request_, captures=(folder,), keys=(key,))
    with pytest.raises(UsageError, match="2 different questions"):
        distill(mixed)
    result = distill(replace(mixed, endpoints=frozenset({"intent"})))
    assert drops(result) == {Drop.OTHER_ENDPOINT: 8}
    path = recipe_file(tmp_path, CLASSIFY)
    result = distill(replace(mixed, recipe=path, out=tmp_path / "b"))
    assert drops(result) == {Drop.OTHER_QUESTION: 8}
    changed = CLASSIFY.model_copy(update={"prompt": "Another:\n{labels}"})
    other_recipe = replace(mixed, recipe=recipe_file(tmp_path, changed), out=tmp_path / "c")
    with pytest.raises(UsageError, match="no captured exchange puts the question"):
        distill(other_recipe)


def test_too_few_answers_make_no_student(tmp_path: Path) -> None:
    folder, key = captured(tmp_path, [QUESTIONS[0], QUESTIONS[-1]])
    with pytest.raises(UsageError, match=r"0 answers are left.*2 rare-label"):
        distill(DistillRequest((folder,), (key,), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_command_tells_what_is_inside_and_what_is_next(
    request_: DistillRequest, tmp_path: Path
) -> None:
    runner = CliRunner()
    call = ["distill", str(request_.captures[0]), "--key", str(request_.keys[0])]
    told = runner.invoke(app, call)
    assert told.exit_code == 0, told.output
    assert "2026-11-22 to 2026-11-22" in told.output
    assert "endpoint intent" in told.output
    assert "reason low-confidence" in told.output
    done = runner.invoke(app, [*call, "--out", str(tmp_path / "student")])
    assert done.exit_code == 0, done.output
    assert "next: edge-export train" in done.output
    again = runner.invoke(app, [*call, "--out", str(tmp_path / "student")])
    assert again.exit_code == 1
    assert "exists" in again.output
    nothing = runner.invoke(
        app, ["distill", str(tmp_path / "gone"), "--key", str(request_.keys[0])]
    )
    assert nothing.exit_code == 1
    assert "name capture files or folders" in nothing.output
