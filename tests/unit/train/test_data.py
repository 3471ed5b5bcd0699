"""Splits by hash, near-duplicates on one side, and batches that waste no padding."""

from __future__ import annotations

from pathlib import Path

import pytest

from export_tools.train.data import (
    Example,
    length_batches,
    near_duplicate_key,
    read_examples,
    split_examples,
)
from export_tools.train.recipe import RecipeError, SplitConfig

CONFIG = SplitConfig(salt="s", dev_percent=20, heldout_percent=30)


def _many() -> list[Example]:
    return [Example(f"say word{chr(97 + i % 26)} {'x' * (i // 26)}", "say") for i in range(1000)]


def test_the_parts_are_disjoint_complete_and_about_as_large_as_asked() -> None:
    split = split_examples(_many(), CONFIG)
    parts = [split.train, split.dev, split.heldout]
    assert sorted(e.text for part in parts for e in part) == sorted(e.text for e in _many())
    assert 150 < len(split.dev) < 250
    assert 250 < len(split.heldout) < 350


def test_a_row_lands_on_the_same_side_whatever_else_is_there() -> None:
    whole, alone = split_examples(_many(), CONFIG), split_examples(_many()[::7], CONFIG)
    assert set(alone.heldout) <= set(whole.heldout)
    assert set(alone.dev) <= set(whole.dev)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Play Clem Burke.", "play clem burke"),
        ("rate it 4 stars", "rate it 5 stars"),
        ("weather in Rome today", "today, weather in Rome?"),
    ],
)
def test_near_duplicates_share_a_key(one: str, other: str) -> None:
    assert near_duplicate_key(one) == near_duplicate_key(other)


def test_another_word_makes_another_key() -> None:
    assert near_duplicate_key("play jazz") != near_duplicate_key("play rock")


def test_batches_hold_every_row_once_within_the_budget() -> None:
    lengths = [3, 50, 7, 7, 200, 1, 9, 30]
    batches = length_batches(lengths, 60, range(len(lengths)))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 60


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a", "intent": "b"}\n{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"train\.jsonl:2: "):
        read_examples(path)


def test_missing_data_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="EDGE_DATA_DIR"):
        read_examples(tmp_path / "train.jsonl")
