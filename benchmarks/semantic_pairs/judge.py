"""Fit the score on the sets that were seen, and report on any."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.semantic_pairs.vectors import Vectors
from edge_runtime.cache.semantic.gates import refusal
from edge_runtime.cache.semantic.likeness import Rarity, features
from edge_runtime.cache.semantic.score import TERMS, Scales, Scorer, encode
from edge_runtime.stats.clopper_pearson import upper_bound
from edge_runtime.stats.learn_then_test import learn_then_test
from edge_runtime.stats.logistic import fit_logistic

FOLDS = 5
DELTA = 0.05
# Half of the 1 % that is promised: the score was fitted on the pairs that it is cut on, and other
# questions are other questions.
FIT_ALPHA = 0.005
STRANGERS = 1_000
LEAST_OFTEN = 10  # a word in fewer texts is as rare as one in none
ALPHA = 0.01
Row = dict[str, Any]
Floats = npt.NDArray[np.float64]


def read_pairs(path: Path) -> list[Row]:
    """The pairs of a file, as written or compressed."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.decode("utf-8").splitlines()]


def write_pairs(path: Path, rows: Iterable[Row]) -> None:
    """Write a file that is the same, byte for byte, for the same pairs."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    data = ("\n".join(lines) + "\n").encode("utf-8")
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def texts_of(rows: list[Row]) -> list[str]:
    return [text for row in rows for text in (row["a"], row["b"])]


def cosine(row: Row, vectors: Vectors) -> float:
    return float(vectors[row["a"]] @ vectors[row["b"]])


def strangers(rows: list[Row], count: int) -> list[Row]:
    """Pairs of questions that have nothing to do with each other, as a small cache offers them.

    The pairs made of nearest questions have none, and a fit knows only what it was shown.
    """
    intents: dict[str, str] = {}
    for row in rows:
        if row["kind"] in ("near", "far", "other-intent", "other-details"):
            first, _, second = row["intents"].partition(" / ")
            intents[row["a"]], intents[row["b"]] = first, second or first
    texts, rng = sorted(intents), random.Random("strangers")
    found = []
    while len(found) < count:
        a, b = rng.sample(texts, 2)
        if intents[a] != intents[b]:
            found.append({"kind": "stranger", "same": False, "a": a, "b": b})
    return found


def fit(rows: list[Row], vectors: Vectors, encoder: str, common: list[str]) -> bytes:
    """The content of `score.json`: a fit on all pairs, cut where scores out of fold allow.

    Strangers are fitted as well, but do not count when the threshold is cut: they are easy. How
    rare words are is counted on the texts `common`.
    """
    every = rows + strangers(rows, STRANGERS)
    passed = [row for row in every if refusal(row["a"], row["b"]) is None]
    known = np.array([row["kind"] != "stranger" for row in passed])
    rarity = Rarity.of(common, LEAST_OFTEN)
    table = np.array(
        [features(row["a"], row["b"], cosine(row, vectors), rarity) for row in passed], np.float64
    )
    same = np.array([row["same"] for row in passed], np.float64)
    fold = np.array([hashlib.sha256(row["a"].encode()).digest()[1] % FOLDS for row in passed])
    scores = np.zeros(len(passed))
    for at in range(FOLDS):
        scales = Scales.of(table[fold != at])
        model = fit_logistic(scales.terms(table[fold != at]), same[fold != at], TERMS)
        scores[fold == at] = model.probabilities(scales.terms(table[fold == at]))
    walk = learn_then_test(scores[known], 1 - same[known], alpha=FIT_ALPHA, delta=DELTA)
    if walk.certified is None:
        raise SystemExit("no threshold keeps false hits low enough; nothing written")
    scales = Scales.of(table)
    whole = fit_logistic(scales.terms(table), same, TERMS)
    weights = whole.weights / whole.deviations
    scorer = Scorer(
        rarity,
        scales,
        whole.bias - float(weights @ whole.means),
        weights,
        encoder,
        round(walk.certified.threshold, 4),
        ALPHA,
        DELTA,
    )
    found = walk.certified
    return encode(
        scorer, {"pairs": int(known.sum()), "hits": found.n, "false": found.k, "upper": found.upper}
    )


@dataclass(frozen=True)
class Outcome:
    """What became of one pair: refused by a gate, and its score otherwise."""

    row: Row
    why: str | None
    score: float
    cosine: float


def judge(rows: list[Row], vectors: Vectors, scorer: Scorer) -> list[Outcome]:
    found = []
    for row in rows:
        near = cosine(row, vectors)
        why = refusal(row["a"], row["b"])
        score = 0.0 if why else scorer.score(row["a"], row["b"], near)
        found.append(Outcome(row, why, score, near))
    return found


def by_kind(outcomes: list[Outcome], threshold: float) -> list[tuple[str, int, int, int]]:
    """Kind and source, pairs, refused by gates, hits."""
    total: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for one in outcomes:
        for name in (one.row["kind"], f"{one.row['kind']}, {one.row['source']}"):
            total[name] += 1
            refused[name] += one.why is not None
            hits[name] += one.score >= threshold
    return [(name, total[name], refused[name], hits[name]) for name in sorted(total)]


def summary(outcomes: list[Outcome], threshold: float) -> dict[str, Any]:
    """Hits, false ones with their bound, and the share of paraphrases (`near`) hit."""
    hits = [one for one in outcomes if one.score >= threshold]
    false = sum(not one.row["same"] for one in hits)
    near = [one for one in outcomes if one.row["kind"] == "near"]
    return {
        "pairs": len(outcomes),
        "hits": len(hits),
        "false_hits": false,
        "upper_95": upper_bound(false, len(hits), DELTA) if hits else 1.0,
        "upper_975": upper_bound(false, len(hits), DELTA / 2) if hits else 1.0,
        "paraphrases": len(near),
        "paraphrases_hit": sum(one.score >= threshold for one in near) / len(near),
    }


def once_each(outcomes: list[Outcome]) -> list[Outcome]:
    """The first pair of each kind that a question comes with, so that none counts for several."""
    found: dict[tuple[str, str], Outcome] = {}
    for one in outcomes:
        edited = one.row["kind"].startswith("edit-")
        found.setdefault((one.row["kind"], one.row["a" if edited else "b"]), one)
    return list(found.values())


def cosine_only(outcomes: list[Outcome], *, gated: bool) -> dict[str, Any] | None:
    """The most that a threshold on the cosine alone gets on these very pairs at 1 %.

    An upper limit of what such a cache could do: the threshold sees the pairs it is judged on.
    """
    some = [one for one in outcomes if not (gated and one.why)]
    scores = np.array([one.cosine for one in some])
    order = np.argsort(-scores, kind="stable")
    wrong = np.cumsum([not some[at].row["same"] for at in order])
    paraphrase = np.cumsum([some[at].row["kind"] == "near" for at in order])
    near = sum(one.row["kind"] == "near" for one in outcomes)
    for count in range(len(some), 0, -1):
        if upper_bound(int(wrong[count - 1]), count, DELTA) <= ALPHA:
            return {"hits": count, "paraphrases_hit": int(paraphrase[count - 1]) / near}
    return None
