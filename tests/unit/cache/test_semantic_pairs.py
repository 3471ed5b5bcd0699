"""The committed pairs: sides are kept apart, and gates do to them what the figures say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.semantic_pairs.build import half_of
from benchmarks.semantic_pairs.judge import Outcome, once_each, read_pairs, strangers
from benchmarks.semantic_pairs.meaning import plain
from edge_runtime.cache.semantic.gates import refusal
from edge_runtime.cache.semantic.score import shipped

PAIRS = Path(__file__).parents[3] / "benchmarks" / "data" / "semantic_pairs"
SETS = ("dev", "test", "again", "fresh")


def pairs(name: str) -> list[dict[str, Any]]:
    return read_pairs(PAIRS / f"{name}.jsonl{'.gz' if name == 'last' else ''}")


@pytest.mark.parametrize("name", SETS)
def test_no_question_is_on_both_sides(name: str) -> None:
    side = "dev" if name == "dev" else "test"
    rows = pairs(name)
    assert len(rows) > 3000
    assert all(half_of(row["a"]) == side for row in rows)
    natural = [row for row in rows if not row["kind"].startswith("edit-")]
    assert all(half_of(row["b"]) == side for row in natural)


def test_what_comes_last_was_never_seen() -> None:
    seen = {plain(row[side]) for name in SETS for row in pairs(name) for side in "ab"}
    rows = pairs("last")
    assert len(rows) > 8000
    asked = [row["a" if row["kind"].startswith("edit-") else "b"] for row in rows]
    assert [text for text in asked if plain(text) in seen] == []
    assert len({frozenset((row["a"], row["b"])) for row in rows}) == len(rows)


def test_the_sets_of_the_test_half_share_no_pair() -> None:
    found = [{frozenset((row["a"], row["b"])) for row in pairs(name)} for name in SETS[1:]]
    assert len(set.union(*found)) == sum(map(len, found))


@pytest.mark.parametrize(
    "kind", ["edit-number", "edit-negation", "edit-question", "edit-direction"]
)
def test_gates_refuse_the_smallest_changes(kind: str) -> None:
    edited = [row for row in pairs("fresh") + pairs("dev") if row["kind"] == kind]
    assert len(edited) > 100
    assert [row for row in edited if refusal(row["a"], row["b"]) is None] == []


def test_gates_let_most_paraphrases_through() -> None:
    near = [row for row in pairs("test") if row["kind"] == "near"]
    refused = sum(refusal(row["a"], row["b"]) is not None for row in near)
    assert len(near) > 2000
    assert refused / len(near) < 0.08


def test_questions_that_have_nothing_to_do_with_each_other_are_no_hits() -> None:
    scorer = shipped()
    found = strangers(pairs("dev"), 300)
    assert len(found) == 300
    passed = [row for row in found if refusal(row["a"], row["b"]) is None]
    assert len(passed) > 50
    scores = [scorer.score(row["a"], row["b"], cosine) for row in passed for cosine in (-0.1, 0.3)]
    assert max(scores) < scorer.threshold


def test_a_question_counts_once_a_kind() -> None:
    rows = [
        {"kind": "near", "a": "x", "b": "asked"},
        {"kind": "near", "a": "y", "b": "asked"},
        {"kind": "far", "a": "y", "b": "asked"},
        {"kind": "edit-swap", "a": "x", "b": "changed"},
        {"kind": "edit-swap", "a": "x", "b": "changed again"},
    ]
    kept = once_each([Outcome(row, None, 0.5, 0.5) for row in rows])
    assert [one.row for one in kept] == [rows[0], rows[2], rows[3]]
