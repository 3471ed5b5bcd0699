"""How long a lookup in the exact cache takes, and how long keeping an answer does.

    python -m benchmarks.exact_cache --entries 100000 --lookups 20000

Fills a cache on disk, then asks for hits (uniform over all entries, so that SQLite's page cache
helps little) and misses in turns, each call timed by itself: key, read, decoding. Then keeps new
answers while the cache is full, so that each evicts. Nothing is excluded but making the request.
"""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.cache_runs import answer, command, measure, summary, timed
from benchmarks.machine import describe_machine
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


if __name__ == "__main__":
    measure(run, command(__doc__).parse_args())
