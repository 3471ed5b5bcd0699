"""Labelled utterances on disk, and splits that keep near-duplicates on one side."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from export_tools.train.recipe import RecipeError, SplitConfig

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Slot:
    """One value as it was spoken, and what it fills."""

    slot: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance with its intent and, where the set has them, its slots in spoken order.

    `confidence` is how far the label can be believed, in (0, 1]: 1 for a person's, less where a
    teacher was unsure or contradicted itself.
    """

    text: str
    intent: str
    slots: tuple[Slot, ...] = ()
    confidence: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise ValueError(f"a confidence lies in (0, 1], not {self.confidence}")


@dataclass(frozen=True, slots=True)
class Split:
    """Three disjoint parts of one file."""

    train: list[Example]
    dev: list[Example]
    heldout: list[Example]


def read_examples(path: Path) -> list[Example]:
    """Read JSON lines of `{"text", "intent", "slots"?, "confidence"?}`.

    `RecipeError` names a bad file or line.
    """
    if not path.is_file():
        raise RecipeError(
            f"no data at {path}; pass --data DIR (or set EDGE_DATA_DIR) with the set's folder in it"
        )
    examples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            slots = tuple(Slot(s["slot"], s["text"]) for s in row.get("slots", ()))
            confidence = float(row.get("confidence", 1.0))
            examples.append(Example(row["text"], row["intent"], slots, confidence))
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(f"{path}:{number}: not a labelled utterance: {error!r}") from error
    return examples


def near_duplicate_key(text: str) -> str:
    """Equal for texts that differ only in case, punctuation, spacing, digits or word order."""
    words = (("0" if word.isdigit() else word) for word in _WORD.findall(text.lower()))
    return " ".join(sorted(words))


def _position(key: str, salt: str) -> float:
    """A number in [0, 100) that depends on nothing but key and salt."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100


def split_examples(examples: Iterable[Example], config: SplitConfig) -> Split:
    """Divide by hash: the same text always lands on the same side, whatever else is in the file."""
    parts = Split([], [], [])
    for example in examples:
        position = _position(near_duplicate_key(example.text), config.salt)
        if position < config.heldout_percent:
            parts.heldout.append(example)
        elif position < config.heldout_percent + config.dev_percent:
            parts.dev.append(example)
        else:
            parts.train.append(example)
    return parts


def length_batches(
    lengths: Sequence[int], batch_tokens: int, order: Sequence[int]
) -> list[list[int]]:
    """Group indices so that rows x longest row stays within `batch_tokens`.

    `order` decides ties, so shuffling it changes who meets whom; batches come shortest first and
    the caller shuffles them. A row longer than the budget gets a batch of its own.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    for index in sorted(order, key=lambda i: lengths[i]):
        if current and lengths[index] * (len(current) + 1) > batch_tokens:
            batches.append(current)
            current = []
        current.append(index)
    if current:
        batches.append(current)
    return batches
