"""Changed utterances keep exact labels, and the same seed gives the same ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from export_tools.train.augment import Augmenter, Template, take_apart
from export_tools.train.data import Example, Slot, read_examples
from export_tools.train.recipe import AugmentConfig

NOTHING = AugmentConfig(
    swap_value=0,
    swap_other_slot=0,
    invent_value=0,
    change_case=0,
    change_edges=0,
    quote_value=0,
    resegment=0,
    dropout=0,
)


@pytest.fixture(scope="module")
def templates() -> list[Template]:
    root = Path(__file__).resolve().parents[2]
    return [take_apart(example) for example in read_examples(root / "data/snips/train.jsonl")]


def test_taking_apart_and_joining_gives_the_utterance_back(templates: list[Template]) -> None:
    root = Path(__file__).resolve().parents[2]
    for example, template in zip(
        read_examples(root / "data/snips/train.jsonl"), templates, strict=True
    ):
        assert template.text == example.text
        assert template.slots == [(slot.slot, slot.text) for slot in example.slots]


def test_a_value_is_found_as_a_word_before_as_a_part_of_one() -> None:
    example = Example("add amy to my list", "Add", (Slot("owner", "my"),))
    template = take_apart(example)
    assert [part.text for part in template.parts] == ["add amy to ", "my", " list"]


def test_a_value_that_was_not_spoken_is_refused() -> None:
    with pytest.raises(ValueError, match="not in"):
        take_apart(Example("play jazz", "Play", (Slot("genre", "rock"),)))


def test_with_no_chances_nothing_changes(templates: list[Template]) -> None:
    augmenter = Augmenter(templates, NOTHING)
    rng = random.Random(1)
    assert [augmenter.draw(t, rng) for t in templates] == templates


@pytest.mark.parametrize(
    "chance",
    ["swap_value", "swap_opening", "change_case", "change_edges", "quote_value"],
)
def test_each_change_keeps_intent_slots_and_order(templates: list[Template], chance: str) -> None:
    config = NOTHING.model_copy(update={chance: 1.0, "invent_value": 0.5, "swap_other_slot": 0.5})
    augmenter = Augmenter(templates, config)
    rng = random.Random(2)
    changed = [augmenter.draw(t, rng) for t in templates]
    assert sum(a.text != b.text for a, b in zip(changed, templates, strict=True)) > 50
    for before, after in zip(templates, changed, strict=True):
        assert after.intent == before.intent
        assert [slot for slot, _ in after.slots] == [slot for slot, _ in before.slots]
        assert all(part.text for part in after.parts)


def test_the_same_seed_draws_the_same(templates: list[Template]) -> None:
    config = NOTHING.model_copy(update={"swap_value": 1.0, "invent_value": 1.0})
    draws = []
    for _ in range(2):
        augmenter, rng = Augmenter(templates, config), random.Random(3)
        draws.append([augmenter.draw(t, rng).text for t in templates])
    assert draws[0] == draws[1]
