"""Make the pairs: `python -m benchmarks.semantic_pairs build --data DIR --minilm BUNDLE`.

Rules
- A question belongs to the dev or the test half by the hash of its words, before any pair is
  made, so no question lies on both sides. Within a half another bit of the hash says whether it
  was asked before (is in the cache) or comes now.
- `near` and `far` are paraphrases: for a question that comes now, the nearest earlier one with
  the same answer, and any earlier one with the same answer.
- `other-intent` and `other-details` are what a cache would be wrong to serve: for a question that
  comes now, the nearest earlier one of another intent, and of the same intent with other details.
- `edit-*` are the question itself with the smallest change that changes its answer.
- Nearest is by cosine of the encoder that the cache uses, so the pairs are the hardest it meets.
- `again` was made after one report on `test`: from the same half, with what was asked earlier and
  what comes now turned about, other edits, and no pair that `test` has.
- `fresh` was made after a report on `again`: as `test`, but with the second and third nearest,
  other edits, and no pair that `test` or `again` has.
- `last` was made after a report on `fresh`: what comes now is in no pair of the others, what was
  asked before is a quarter of the whole set, drawn anew three times by hash. The nearest again,
  and kinds in the shares that `test` has them in.
- `curation.json` lists what reading found wrong: pairs of intents that are told apart by their
  labels only, single questions with a wrong label, and single pairs. They are left out. What
  reading `last` found stands apart, so that the older sets stay as they are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.semantic_pairs.edits import EDITS
from benchmarks.semantic_pairs.meaning import Question, plain, same_answer, vocabulary

FILES = {
    "clinc150": ("clinc150/train.jsonl", "clinc150/validation.jsonl"),
    "banking77": ("banking77/train.jsonl",),
    "snips": ("snips/train.jsonl",),
}
# Most pairs of each kind in each half, by source.
WANTED = {
    "near": {"banking77": 1000, "clinc150": 1000, "snips": 200},
    "far": {"banking77": 150, "clinc150": 150, "snips": 0},
    "other-intent": {"banking77": 700, "clinc150": 500, "snips": 100},
    "other-details": {"banking77": 0, "clinc150": 500, "snips": 300},
}
EDITS_WANTED = 200  # of each edit, in each half
LAST_CUTS = 3  # so often the cache of `last` is drawn
LAST_SHARE = 0.6  # of the numbers above, a cut: as many as the unseen questions have paraphrases
MAX_CHARS = 200
# Asking "why" in its place is no other question.
CAUSE = re.compile(r"how come|how is it possible", re.IGNORECASE)
Vectors = npt.NDArray[np.float32]


def _bits(text: str) -> int:
    return hashlib.sha256(("semantic-pairs " + plain(text)).encode()).digest()[0]


def half_of(text: str) -> str:
    """`dev` or `test`."""
    return "test" if _bits(text) & 1 else "dev"


def read_questions(data: Path) -> list[Question]:
    """All questions of the three sets, each wording once, in the order of their hashes."""
    found: dict[tuple[str, str], Question] = {}
    for source, names in FILES.items():
        for name in names:
            for line in (data / name).read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                slots = row.get("slots")
                question = Question(
                    " ".join(row["text"].split()),
                    row["intent"],
                    source,
                    None
                    if slots is None
                    else tuple((one["slot"], plain(one["text"])) for one in slots),
                )
                if len(question.text) <= MAX_CHARS:
                    found.setdefault((source, plain(question.text)), question)
    return sorted(found.values(), key=lambda one: hashlib.sha256(one.text.encode()).digest())


def make_pairs(
    questions: list[Question], vectors: dict[str, Vectors], curation: dict[str, Any]
) -> dict[str, list[dict[str, str | bool]]]:
    """The pairs of both halves, further pairs of the test half, and those of unused questions."""
    confused = {frozenset(pair) for pair in curation["intents"]}
    dropped = {frozenset(pair) for pair in curation["pairs"]}
    halves: dict[str, list[dict[str, str | bool]]] = {}
    for name in ("dev", "test", "again", "fresh"):
        half = "dev" if name == "dev" else "test"
        own = [
            one
            for one in questions
            if half_of(one.text) == half and one.text not in curation["texts"]
        ]
        rng = random.Random(f"pairs {name}")
        rows: list[dict[str, str | bool]] = []
        for source in FILES:
            some = [one for one in own if one.source == source]
            turned = name == "again"
            earlier = [one for one in some if bool(_bits(one.text) & 2) != turned]
            now = [one for one in some if bool(_bits(one.text) & 2) == turned]
            for place in (1, 2) if name == "fresh" else (0,):
                rows += _natural((earlier, now), vectors, confused, rng, WANTED, place=place)
        if name in ("again", "fresh"):
            own = [one for one in own if "how come" not in one.text.lower()]
            for before in ("test", "again"):
                dropped |= {_pair(row) for row in halves.get(before, [])}
        rows += _edited(own, rng, EDITS_WANTED)
        halves[name] = [row for row in rows if _pair(row) not in dropped]
    seen = {plain(str(row[side])) for rows in halves.values() for row in rows for side in "ab"}
    halves["last"] = last_pairs(questions, vectors, curation, seen)
    return halves


def last_pairs(
    questions: list[Question],
    vectors: dict[str, Vectors],
    curation: dict[str, Any],
    seen: set[str],
) -> list[dict[str, str | bool]]:
    """Pairs whose later question is not in `seen`, the plain texts of all other pairs."""
    confused = {frozenset(pair) for pair in curation["intents"]}
    dropped = {frozenset(pair) for pair in (*curation["pairs"], *curation["last"]["pairs"])}
    wrong = {*curation["texts"], *curation["last"]["texts"]}
    own = [one for one in questions if one.text not in wrong and not CAUSE.search(one.text)]
    wanted = {
        kind: {source: round(LAST_SHARE * count) for source, count in counts.items()}
        for kind, counts in WANTED.items()
    }
    rng = random.Random("pairs last")
    rows: list[dict[str, str | bool]] = []
    for cut, source in itertools.product(range(LAST_CUTS), FILES):
        some = [one for one in own if one.source == source]
        earlier = [one for one in some if _cached(one.text, cut)]
        now = [one for one in some if plain(one.text) not in seen and not _cached(one.text, cut)]
        for row in _natural((earlier, now), vectors, confused, rng, wanted, place=0):
            if _pair(row) not in dropped:
                dropped.add(_pair(row))  # once is enough
                rows.append(row)
    unseen = [one for one in own if plain(one.text) not in seen]
    edits = round(LAST_CUTS * LAST_SHARE * EDITS_WANTED)
    return rows + [row for row in _edited(unseen, rng, edits) if _pair(row) not in dropped]


def _cached(text: str, cut: int) -> bool:
    """One text in four: what the cache of `last` holds."""
    return hashlib.sha256(f"semantic-pairs last {cut} {plain(text)}".encode()).digest()[0] < 64


def _pair(row: dict[str, str | bool]) -> frozenset[str]:
    return frozenset((str(row["a"]), str(row["b"])))


def _row(kind: str, same: bool, a: Question, b: Question) -> dict[str, str | bool]:
    return {
        "kind": kind,
        "same": same,
        "a": a.text,
        "b": b.text,
        "source": a.source,
        "intents": a.intent if a.intent == b.intent else f"{a.intent} / {b.intent}",
    }


def _natural(
    cut: tuple[list[Question], list[Question]],
    vectors: dict[str, Vectors],
    confused: set[frozenset[str]],
    rng: random.Random,
    wanted: dict[str, dict[str, int]],
    *,
    place: int,
) -> Iterator[dict[str, str | bool]]:
    earlier, now = cut
    common = vocabulary(earlier + now)
    stored = np.stack([vectors[one.text] for one in earlier])
    intents = np.array([one.intent for one in earlier])
    left = {kind: counts[now[0].source] for kind, counts in wanted.items()}
    for question in now:
        if not any(left.values()):
            return
        order = np.argsort(-(stored @ vectors[question.text]), kind="stable")
        same_intent = intents[order] == question.intent
        others = (earlier[at] for at in order[~same_intent])
        ranked = [earlier[at] for at in order[same_intent]]
        for kind, found in _of_one(
            question,
            ranked=ranked,
            others=others,
            common=common,
            confused=confused,
            rng=rng,
            place=place,
        ):
            if left[kind] > 0:
                left[kind] -= 1
                yield _row(kind, kind in ("near", "far"), found, question)


def _of_one(
    question: Question,
    *,
    ranked: list[Question],
    others: Iterator[Question],
    common: dict[str, frozenset[str]],
    confused: set[frozenset[str]],
    rng: random.Random,
    place: int,
) -> Iterator[tuple[str, Question]]:
    """At most one earlier question of each kind, the nearest (`place` 0) or one behind it.

    `ranked` are those of the same intent, `others` the rest; both have the nearest first.
    """
    verdicts = [(same_answer(question, other, common), other) for other in ranked]
    same = [other for verdict, other in verdicts if verdict]
    if len(same) > place:
        yield "near", same[place]
        yield "far", rng.choice(same)
    different = [other for verdict, other in verdicts if verdict is False]
    if len(different) > place:
        yield "other-details", different[place]
    for other in itertools.islice(others, place, None):
        if (
            same_answer(question, other, common) is False
            and frozenset((question.intent, other.intent)) not in confused
        ):
            yield "other-intent", other
            return


def _edited(
    questions: list[Question], rng: random.Random, wanted: int
) -> Iterator[dict[str, str | bool]]:
    order = list(questions)
    rng.shuffle(order)
    for kind, edit in EDITS.items():
        count = 0
        for question in order:
            if count == wanted:
                break
            changed = edit(question.text.lower(), rng)
            if changed is not None:
                count += 1
                other = Question(changed, question.intent, question.source)
                yield _row(kind, False, question, other)
