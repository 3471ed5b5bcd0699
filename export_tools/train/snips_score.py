"""Scoring of intents and slots the way the Snips benchmark (arXiv 1805.10190) does.

A predicted slot counts when the same slot with exactly the same text is among the utterance's own
slots (as multisets) and the intent is right. Figures are kept for each (intent, slot) pair:
predictions are charged to the predicted intent, misses to the true one. The headline is the plain
mean of F1 over all pairs that occur in the truth, so a rare slot weighs as much as a common one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Parse:
    """What an utterance means: its intent and (slot, text) pairs in spoken order."""

    intent: str
    slots: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SlotFigures:
    """Precision, recall and F1 of one slot of one intent, with the number of true values."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class SnipsScore:
    """All figures of one run over a labelled set."""

    examples: int
    intent_accuracy: float
    intent_recall: float
    """Mean of the intents' own recalls."""
    mean_slot_f1: float
    """Mean over all (intent, slot) pairs of the truth."""
    exact_match: float
    """Share of utterances with intent, slots and their order all right."""
    unreadable: float
    """Share of answers that were no JSON object of the promised form."""
    slots: Mapping[tuple[str, str], SlotFigures]

    def summary(self) -> dict[str, Any]:
        """The same as plain JSON values, slots keyed `intent.slot`."""
        rows = {name: getattr(self, name) for name in self.__slots__ if name != "slots"}
        slots = {".".join(key): asdict(figures) for key, figures in self.slots.items()}
        return {**rows, "slots": slots}


def parse_answer(content: str) -> Parse | None:
    """Read an answer of the assistant; None if it is not exactly one object of the right form."""
    try:
        row = json.loads(content)
    except ValueError:
        return None
    if not isinstance(row, dict) or set(row) != {"intent", "slots"}:
        return None
    if not isinstance(row["intent"], str) or not isinstance(row["slots"], list):
        return None
    pairs = []
    for slot in row["slots"]:
        if not isinstance(slot, dict) or set(slot) != {"slot", "text"}:
            return None
        if not isinstance(slot["slot"], str) or not isinstance(slot["text"], str):
            return None
        pairs.append((slot["slot"], slot["text"]))
    return Parse(row["intent"], tuple(pairs))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _slot_figures(found: int, predicted: int, true: int) -> SlotFigures:
    precision, recall = _ratio(found, predicted), _ratio(found, true)
    f1 = 2 * precision * recall / (precision + recall) if found else 0.0
    return SlotFigures(precision, recall, f1, true)


def score_parses(truth: Sequence[Parse], answers: Sequence[Parse | None]) -> SnipsScore:
    """Score answers against the truth, row by row; None is an unreadable answer.

    Raises ValueError when the lengths differ or there is nothing to score.
    """
    if len(truth) != len(answers) or not truth:
        raise ValueError(
            f"need as many answers as truths, at least one: {len(truth)}, {len(answers)}"
        )
    found: Counter[tuple[str, str]] = Counter()
    predicted: Counter[tuple[str, str]] = Counter()
    true: Counter[tuple[str, str]] = Counter()
    rows: Counter[str] = Counter()
    right: Counter[str] = Counter()
    exact = 0
    for expected, answer in zip(truth, answers, strict=True):
        rows[expected.intent] += 1
        true.update((expected.intent, slot) for slot, _ in expected.slots)
        if answer is None:
            continue
        predicted.update((answer.intent, slot) for slot, _ in answer.slots)
        if answer.intent != expected.intent:
            continue
        right[expected.intent] += 1
        exact += answer == expected
        common = Counter(expected.slots) & Counter(answer.slots)
        for (slot, _), count in common.items():
            found[expected.intent, slot] += count
    slots = {key: _slot_figures(found[key], predicted[key], true[key]) for key in sorted(true)}
    return SnipsScore(
        examples=len(truth),
        intent_accuracy=sum(right.values()) / len(truth),
        intent_recall=_mean(right[intent] / count for intent, count in rows.items()),
        mean_slot_f1=_mean(figures.f1 for figures in slots.values()),
        exact_match=exact / len(truth),
        unreadable=sum(answer is None for answer in answers) / len(truth),
        slots=slots,
    )


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept) if kept else 0.0
