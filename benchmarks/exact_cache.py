"""How long a lookup in the exact cache takes, and how long keeping an answer does.

    python -m benchmarks.exact_cache --entries 100000 --lookups 20000

Fills a cache on disk, then asks for hits (uniform over all entries, so that SQLite's page cache
helps little) and misses in turns, each call timed by itself: key, read, decoding. Then keeps new
answers while the cache is full, so that each evicts. Nothing is excluded but making the request.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.machine import describe_machine
from edge_runtime.cache.answers import Answer
from edge_runtime.cache.contract import OVERHEAD_BYTES, CacheLimits, Hit, Ticket
from edge_runtime.cache.exact import ExactCache
from edge_runtime.cache.key import Question
from edge_runtime.cache.policy import Use

USE = Use(read=True, keep=True, ttl_s=86_400)


def question(number: int) -> Question:
    text = f"Question {number}: " + "what should I answer to a customer who asks for it? " * 5
    fields = {
        "messages": [
            {"role": "system", "content": "You are a careful assistant. " * 20},
            {"role": "user", "content": text},
        ],
        "temperature": 0,
        "max_tokens": 256,
    }
    return Question("chat", "0" * 64, "default", fields)


def answer(number: int, pieces: int) -> Answer:
    words = [f"word{number + place} " for place in range(pieces)]
    body = {"choices": [{"message": {"content": "".join(words)}, "finish_reason": "stop"}]}
    stream = tuple({"choices": [{"index": 0, "delta": {"content": word}}]} for word in words)
    return Answer(body, stream, 200, pieces)


def timed(call: Callable[[int], object], numbers: Sequence[int]) -> list[float]:
    """Milliseconds of each call."""
    found = []
    for number in numbers:
        start = time.perf_counter_ns()
        call(number)
        found.append((time.perf_counter_ns() - start) / 1e6)
    return found


def summary(times_ms: list[float]) -> dict[str, float]:
    ranked = sorted(times_ms)
    at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    shown = {name: ranked[int(share * (len(ranked) - 1))] for name, share in at.items()}
    return {name: round(value, 4) for name, value in (shown | {"max": ranked[-1]}).items()}


def run(entries: int, lookups: int, pieces: int, folder: Path) -> dict[str, object]:
    rng = random.Random(1)
    size = 1 << 40
    limits = CacheLimits(max_bytes=size, max_entry_bytes=1 << 20)
    path = folder / "cache.db"
    with ExactCache.open(path, limits=limits) as cache:
        for number in range(entries):
            ticket = cache.lookup(question(number), Use(read=False, keep=True))
            assert isinstance(ticket, Ticket)
            cache.keep(ticket, answer(number, pieces), USE)
        held = cache.size()
    limits = CacheLimits(max_bytes=held.bytes, max_entry_bytes=1 << 20)
    with ExactCache.open(path, limits=limits) as cache:
        known = [question(rng.randrange(entries)) for _ in range(lookups)]
        unknown = [question(entries + number) for number in range(lookups)]
        hits = timed(lambda place: cache.lookup(known[place], USE), range(lookups))
        misses = timed(lambda place: cache.lookup(unknown[place], USE), range(lookups))
        assert isinstance(cache.lookup(known[0], USE), Hit)
        assert isinstance(cache.lookup(unknown[0], USE), Ticket)
        fresh = [answer(number, pieces) for number in range(min(lookups, 5000))]
        tickets = [cache.lookup(unknown[place], USE) for place in range(len(fresh))]
        keeps = timed(
            lambda place: cache.keep(tickets[place], fresh[place], USE), range(len(fresh))
        )
        assert cache.size().bytes <= held.bytes
    return {
        "entries": entries,
        "bytes_per_entry": held.bytes // entries,
        "of_that_overhead": OVERHEAD_BYTES,
        "lookups": lookups,
        "hit_ms": summary(hits),
        "miss_ms": summary(misses),
        "keep_and_evict_ms": summary(keeps),
        "machine": describe_machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--lookups", type=int, default=20_000)
    parser.add_argument("--pieces", type=int, default=64, help="stream pieces an answer")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="exact-cache-") as folder:
        result = run(arguments.entries, arguments.lookups, arguments.pieces, Path(folder))
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
