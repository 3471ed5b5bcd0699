"""Answers are compared before doubles go, and what cannot be learnt is left out."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_tools.distill.curate import Curated, Limits, curate, row_of, split_rows
from export_tools.distill.kinds import Task
from export_tools.distill.reading import Drop, Taken
from export_tools.train.data import Example, Slot
from export_tools.train.recipe import SplitConfig

SPLIT = SplitConfig(salt="t", dev_percent=10, heldout_percent=10)
ALL = Limits(rows_of_label=1)


def taken(text: str, intent: str = "on", at_us: int = 1, **more: object) -> Taken:
    outside = bool(more.pop("out_of_scope", False))
    example = Example(text, intent, **more)  # type: ignore[arg-type]
    return Taken(example, at_us, "serve", "low-confidence", "big", outside)


def curated(rows: list[Taken], task: Task = Task.CLASSIFY, limits: Limits = ALL) -> Curated:
    return curate(rows, task, limits, SplitConfig(salt="t", dev_percent=0), Curated())


def test_the_majority_answers_and_its_share_is_the_confidence() -> None:
    found = curated(
        [taken("lamp on", at_us=1), taken("Lamp, on!", at_us=3), taken("lamp on", "off")]
    )
    (row,) = found.rows
    assert (row.example.text, row.example.intent) == ("Lamp, on!", "on")
    assert row.example.confidence == pytest.approx(2 / 3)
    assert found.dropped == Counter({Drop.DUPLICATE: 1, Drop.DISAGREEMENT: 1})
    assert found.asked_again == 1


def test_answers_that_contradict_each_other_all_go() -> None:
    found = curated([taken("lamp on"), taken("lamp on", "off"), taken("music", "play")])
    assert [row.example.text for row in found.rows] == ["music"]
    assert found.dropped[Drop.DISAGREEMENT] == 2
    assert found.shown[Drop.DISAGREEMENT] == ["lamp on"]


def test_a_tie_is_no_majority_however_little_must_agree() -> None:
    found = curated([taken("a"), taken("a", "off")], limits=Limits(0.5, 0.0, 1))
    assert not found.rows


def test_the_frontiers_own_doubt_counts_and_can_be_too_much() -> None:
    rows = [taken("a", confidence=0.9), taken("a", confidence=0.5), taken("b", confidence=0.2)]
    found = curated(rows, limits=Limits(confidence=0.6, rows_of_label=1))
    assert [row.example.confidence for row in found.rows] == [pytest.approx(0.7)]
    assert found.dropped[Drop.UNSURE] == 1


def test_slots_are_compared_for_equal_texts_only() -> None:
    def at(hour: str, said: str) -> Taken:
        return taken(f"wake me at {hour}", "alarm", slots=(Slot("time", said),))

    agreeing = curated([at("7", "7"), at("8", "8")], Task.EXTRACT)
    assert agreeing.dropped == Counter({Drop.DUPLICATE: 1, Drop.DISAGREEMENT: 0})
    fighting = curated([at("7", "7"), at("7", "at 7")], Task.EXTRACT)
    assert not fighting.rows


def test_out_of_scope_lies_apart_and_may_be_rare() -> None:
    rows = [taken(f"lamp {n} {'x' * n}") for n in range(4)]
    rows += [taken("what is love", "oos", out_of_scope=True), taken("rare one", "rare")]
    found = curated(rows, limits=Limits(rows_of_label=4))
    assert len(found.rows) == 4
    assert [row.example.text for row in found.outside] == ["what is love"]
    assert found.shown[Drop.RARE] == ["rare one"]


def test_a_label_that_never_trains_is_left_out() -> None:
    rows = [taken(f"question {'y' * n}", f"label {n}") for n in range(60)]
    found = curate(rows, Task.CLASSIFY, ALL, SPLIT, Curated())
    split = split_rows(found.rows, SPLIT)
    assert found.dropped[Drop.RARE] > 0
    assert {one.intent for one in split.train} == {one.example.intent for one in found.rows}


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["on", "off"]), st.integers(1, 5)),
        max_size=30,
    ),
    st.randoms(use_true_random=False),
)
def test_every_answer_is_kept_or_counted_and_the_order_does_not_matter(
    seen: list[tuple[str, str, int]], shuffler: random.Random
) -> None:
    rows = [taken(text, intent, at) for text, intent, at in seen]
    found = curated(rows)
    assert len(found.rows) + sum(found.dropped.values()) == len(rows)
    shuffler.shuffle(rows)
    again = curated(rows)
    assert [row.example for row in again.rows] == [row.example for row in found.rows]


def test_rows_are_the_projects_lines() -> None:
    assert row_of(Example("a", "on"), Task.CLASSIFY) == {"text": "a", "intent": "on"}
    half = Example("a", "on", (Slot("s", "a"),), 0.5)
    assert row_of(half, Task.EXTRACT) == {
        "text": "a", "intent": "on", "slots": [{"slot": "s", "text": "a"}], "confidence": 0.5,
    }  # fmt: skip
    assert row_of(Example("a", "on"), Task.EXTRACT)["slots"] == []
