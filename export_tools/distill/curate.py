"""From what a frontier answered to what is worth training on. Pure.

Rules
- Answers to one question are compared before doubles go: the winner needs a share of at least
  `agreement`, or all of them are dropped. Which text stands for the question is the newest's.
- A label's confidence is that share times how sure the frontier was, where it said so.
- For labels, texts that differ only in case, punctuation, digits or word order are one question;
  for slots only equal texts are, as their values stand in the text.
- Nothing depends on the order of the files but which of two equal moments counts as newer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from export_tools.distill.kinds import Task
from export_tools.distill.reading import Drop, Taken
from export_tools.train.data import Example, Split, near_duplicate_key, split_examples
from export_tools.train.recipe import SplitConfig

MAX_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What is good enough: share that must agree, least confidence, least rows of a label."""

    agreement: float = 0.66
    confidence: float = 0.0
    rows_of_label: int = 2


@dataclass(slots=True)
class Curated:
    """The rows that stay, those out of scope apart, and how many were dropped by reason."""

    rows: list[Taken] = field(default_factory=list)
    outside: list[Taken] = field(default_factory=list)
    dropped: Counter[Drop] = field(default_factory=Counter)
    shown: dict[Drop, list[str]] = field(default_factory=dict)
    asked_again: int = 0
    """Questions with several answers, whether they agreed or not."""

    def drop(self, why: Drop, count: int, text: str) -> None:
        """Count a drop and keep its text as an example, for some."""
        self.dropped[why] += count
        texts = self.shown.setdefault(why, [])
        if len(texts) < MAX_SHOWN and text:
            texts.append(text)


def curate(
    taken: Iterable[Taken], task: Task, limits: Limits, split: SplitConfig, into: Curated
) -> Curated:
    """Compare, take out doubles and rare labels; drops are added to those already in `into`."""
    agreed = _agreed(_grouped(taken, task), limits, into)
    for one in _without_doubles(agreed, into):
        if one.example.confidence < limits.confidence:
            into.drop(Drop.UNSURE, 1, one.example.text)
        else:
            (into.outside if one.out_of_scope else into.rows).append(one)
    into.rows = _without_rare(into.rows, limits.rows_of_label, split, into)
    return into


def split_rows(rows: Sequence[Taken], config: SplitConfig) -> Split:
    """The division that the trainer will make of the same rows."""
    return split_examples((one.example for one in rows), config)


def _grouped(taken: Iterable[Taken], task: Task) -> list[list[Taken]]:
    groups: defaultdict[str, list[Taken]] = defaultdict(list)
    for one in taken:
        text = one.example.text
        key = (
            near_duplicate_key(text) if task is Task.CLASSIFY else " ".join(text.split()).casefold()
        )
        groups[key or text].append(one)
    return list(groups.values())


def _agreed(groups: Iterable[list[Taken]], limits: Limits, into: Curated) -> list[Taken]:
    """One row for each question whose answers agree enough."""
    kept = []
    for group in groups:
        newest = sorted(group, key=lambda one: one.at_us, reverse=True)
        votes = Counter(_answer(one) for one in newest)
        answer, count = votes.most_common(1)[0]
        into.asked_again += len(group) > 1
        share = count / len(group)
        if share < limits.agreement - 1e-9 or _tied(votes):
            into.drop(Drop.DISAGREEMENT, len(group), newest[0].example.text)
            continue
        same = [one for one in newest if _answer(one) == answer]
        sure = sum(one.example.confidence for one in same) / len(same)
        into.dropped[Drop.DISAGREEMENT] += len(group) - count
        into.dropped[Drop.DUPLICATE] += count - 1
        example = replace(same[0].example, confidence=max(share * sure, 1e-6))
        kept.append(replace(same[0], example=example))
    return kept


def _tied(votes: Counter[tuple[object, ...]]) -> bool:
    first = votes.most_common(2)
    return len(first) > 1 and first[0][1] == first[1][1]


def _answer(one: Taken) -> tuple[object, ...]:
    slots = tuple((slot.slot, slot.text.casefold()) for slot in one.example.slots)
    return (one.example.intent, one.out_of_scope, slots)


def _without_doubles(rows: Iterable[Taken], into: Curated) -> list[Taken]:
    """The newest of each set of near-duplicates."""
    kept: dict[str, Taken] = {}
    for one in sorted(rows, key=lambda one: one.at_us, reverse=True):
        key = near_duplicate_key(one.example.text) or one.example.text
        if key in kept:
            into.drop(Drop.DUPLICATE, 1, one.example.text)
        else:
            kept[key] = one
    # A stable order, whatever the capture's: the same answers give the same file.
    return sorted(kept.values(), key=lambda one: (one.at_us, one.example.text))


def _without_rare(rows: list[Taken], least: int, split: SplitConfig, into: Curated) -> list[Taken]:
    """Labels with enough rows, and at least one that trains: no other can be learnt."""
    counts = Counter(one.example.intent for one in rows)
    trained = {example.intent for example in split_rows(rows, split).train}
    good = {label for label, count in counts.items() if count >= least and label in trained}
    for one in rows:
        if one.example.intent not in good:
            into.drop(Drop.RARE, 1, one.example.text)
    return [one for one in rows if one.example.intent in good]


def row_of(example: Example, task: Task) -> dict[str, object]:
    """A row of the project's JSON lines."""
    row: dict[str, object] = {"text": example.text, "intent": example.intent}
    if task is Task.EXTRACT:
        row["slots"] = [{"slot": slot.slot, "text": slot.text} for slot in example.slots]
    if example.confidence < 1:
        row["confidence"] = round(example.confidence, 4)
    return row
