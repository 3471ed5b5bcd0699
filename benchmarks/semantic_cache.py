"""How long a lookup in the semantic cache takes, and how long keeping an answer does.

    python -m benchmarks.semantic_cache --entries 100000 --lookups 20000

Fills one partition (one tenant, one model, one system prompt: the worst case for the index) with
made-up questions and clustered vectors, then asks for hits (a kept question in other words) and
misses in turns, each call timed by itself: gates, search, score, reading and decoding the answer.
Then keeps new answers while the cache is full, so that each evicts. The embedding is left out; its
time is the encoder's, and measured in a daemon that runs, idle and beside decoding:

    python -m benchmarks.semantic_cache --embedding URL --decoder NAME --questions train.jsonl
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.cache_runs import answer, command, measure, show, summary, timed
from benchmarks.machine import describe_machine
from benchmarks.semantic_embedding import read_questions, rounds
from edge_runtime.cache.semantic.contract import Asked, SemanticHit, SemanticLimits, SemanticTicket
from edge_runtime.cache.semantic.score import shipped
from edge_runtime.cache.semantic.store import SemanticStore

WIDTH = 384
NEAR = 0.1  # length of the noise between a question and its paraphrase
CLUSTERS = 1000
TTL_S = 86_400
MOST_QUESTIONS = 500
SUBJECTS = [
    "card",
    "account",
    "transfer",
    "refund",
    "limit",
    "statement",
    "payment",
    "cheque",
    "deposit",
    "passcode",
]
VERBS = [
    "arrive",
    "fail",
    "expire",
    "work",
    "change",
    "verify",
    "cancel",
    "update",
    "settle",
    "appear",
]
Vectors = npt.NDArray[np.float32]


def name_of(number: int) -> str:
    """A word of its own for every number, without digits: they would make it a code."""
    letters = "bcdfghklmnprstvz"
    word = ""
    for at in range(5):
        word += letters[(number >> (4 * at)) & 15] + "aeiou"[(number + at) % 5]
    return word


def text_of(number: int, other: int) -> str:
    subject, verb = SUBJECTS[number % 10], VERBS[number // 10 % 10]
    if other:
        return f"please tell me whether the {subject} of {name_of(number)} will {verb}"
    return f"will the {subject} of {name_of(number)} {verb}"


def vectors_of(count: int, rng: np.random.Generator) -> Vectors:
    """Unit vectors [count, WIDTH] in clusters, as questions about a few subjects are."""
    centres = rng.normal(size=(CLUSTERS, WIDTH))
    rows = centres[rng.integers(CLUSTERS, size=count)] + rng.normal(size=(count, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def moved(vector: Vectors, rng: np.random.Generator) -> Vectors:
    noise = rng.normal(size=WIDTH)
    row = vector + NEAR * noise / np.linalg.norm(noise)
    unit: Vectors = (row / np.linalg.norm(row)).astype(np.float32)
    return unit


def asked(number: int, other: int) -> Asked:
    return Asked("default", "0" * 64, b"s" * 32, text_of(number, other))


def fill(store: SemanticStore, vectors: Vectors, pieces: int) -> float:
    """Keep an answer to each; the seconds it took."""
    start = time.perf_counter()
    for number, vector in enumerate(vectors):
        ticket = SemanticTicket(asked(number, 0), vector, 0)
        assert store.keep(ticket, answer(number, pieces), ttl_s=TTL_S)
    return time.perf_counter() - start


def run(entries: int, lookups: int, pieces: int, folder: Path) -> dict[str, object]:
    rng = np.random.default_rng(1)
    chosen = random.Random(1)
    path = folder / "semantic.db"
    limits = SemanticLimits(max_entries=entries, max_bytes=1 << 40)
    vectors = vectors_of(entries, rng)
    store = SemanticStore.open(path, scorer=shipped(), limits=limits)
    fill_s = fill(store, vectors, pieces)
    store.close()
    start = time.perf_counter()
    store = SemanticStore.open(path, scorer=shipped(), limits=limits)
    open_s = time.perf_counter() - start
    known = [chosen.randrange(entries) for _ in range(lookups)]
    near = [moved(vectors[number], rng) for number in known]
    far = vectors_of(lookups, rng)
    found: list[SemanticHit | SemanticTicket] = []

    def hit(at: int) -> None:
        found.append(store.lookup(asked(known[at], 1), near[at], audit=False))

    def miss(at: int) -> None:
        store.lookup(asked(entries + at, 1), far[at], audit=False)

    for at in range(min(100, lookups)):  # the page cache and the caches of parsed texts
        miss(at)
    hits, misses = timed(hit, range(lookups)), timed(miss, range(lookups))
    share = sum(isinstance(one, SemanticHit) for one in found) / len(found)
    tickets = [
        SemanticTicket(asked(entries + at, 1), far[at], 0) for at in range(min(lookups, 2000))
    ]
    keeps = timed(
        lambda at: store.keep(tickets[at], answer(at, pieces), ttl_s=TTL_S), range(len(tickets))
    )
    held = store.size()
    assert held.entries == entries
    store.close()
    return {
        "entries": entries,
        "bytes_per_entry": held.bytes // entries,
        "lookups": lookups,
        "found": round(share, 4),
        "hit_ms": summary(hits),
        "miss_ms": summary(misses),
        "keep_and_evict_ms": summary(keeps),
        "fill_s": round(fill_s, 1),
        "open_s": round(open_s, 2),
        "machine": describe_machine(),
    }


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--embedding", metavar="URL", help="time the embedding of a daemon instead")
    parser.add_argument("--encoder", default="minilm-l6", help="the encoder's name there")
    parser.add_argument("--decoder", help="also embed beside streams of this model")
    parser.add_argument("--streams", type=int, default=4, help="how many streams")
    parser.add_argument("--questions", type=Path, help="texts to embed: lines, or JSON lines")
    arguments = parser.parse_args()
    if arguments.embedding is None:
        measure(run, arguments)
        return
    if arguments.questions is None:
        parser.error("--embedding needs --questions")
    questions = read_questions(arguments.questions, min(arguments.lookups, MOST_QUESTIONS))
    found = rounds(
        arguments.embedding, arguments.encoder, arguments.decoder, questions, arguments.streams
    )
    show(asyncio.run(found), arguments.json)


if __name__ == "__main__":
    main()
