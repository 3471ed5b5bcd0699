"""The exact cache and its in-memory twin, by the same tests; then what only a file can do."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_runtime.cache import uses
from edge_runtime.cache.answers import Answer
from edge_runtime.cache.contract import CacheLimits, ExactCacheLike, Hit, Ticket
from edge_runtime.cache.exact import ExactCache
from edge_runtime.cache.file import EXACT
from edge_runtime.cache.key import Question, cache_key
from edge_runtime.cache.memory import MemoryCache
from edge_runtime.cache.policy import Use
from edge_runtime.cache.uses import USES_AT_ONCE
from edge_runtime.errors import ConfigError, EngineError

USE = Use(read=True, keep=True, ttl_s=60)
SMALL = CacheLimits(max_bytes=6000, max_entry_bytes=1500)


class Clock:
    def __init__(self) -> None:
        self.s = 1_000_000

    def __call__(self) -> int:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["disk", "memory"])
def cache(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryCache(clock, SMALL)
        return
    with ExactCache.open(tmp_path / "cache.db", limits=SMALL, clock=clock) as opened:
        yield opened


def ask(text: str, tenant: str = "a", digest: str = "d1") -> Question:
    return Question("chat", digest, tenant, {"prompt": text})


def put(
    cache: ExactCacheLike,
    text: str,
    *,
    tags: frozenset[str] = frozenset(),
    size: int = 10,
    use: Use = USE,
    **where: str,
) -> bool:
    ticket = cache.lookup(ask(text, **where), Use(read=False, keep=True))
    assert isinstance(ticket, Ticket)
    return cache.keep(ticket, Answer({"text": text, "pad": "x" * size}, tags=tags), use)


def got(cache: ExactCacheLike, text: str, use: Use = USE, **where: str) -> str | None:
    found = cache.lookup(ask(text, **where), use)
    return found.answer.body["text"] if isinstance(found, Hit) else None


def test_the_same_question_gets_the_kept_answer(cache: ExactCacheLike, clock: Clock) -> None:
    assert got(cache, "one") is None
    assert put(cache, "one")
    clock.s += 7
    hit = cache.lookup(ask("one"), USE)
    assert isinstance(hit, Hit)
    assert (hit.answer.body["text"], hit.age_s) == ("one", 7)
    assert got(cache, "two") is None
    assert got(cache, "one", tenant="b") is None
    assert got(cache, "one", digest="d2") is None


def test_a_stream_replays_as_the_stream_it_was(cache: ExactCacheLike) -> None:
    pieces = tuple({"choices": [{"delta": {"content": word}}]} for word in ("to", "be", "or"))
    ticket = cache.lookup(ask("s"), USE)
    assert isinstance(ticket, Ticket)
    cache.keep(ticket, Answer({"text": "tobeor"}, pieces), USE)
    hit = cache.lookup(ask("s"), USE)
    assert isinstance(hit, Hit)
    assert hit.answer.pieces == pieces


def test_what_may_not_be_read_or_kept_is_not(cache: ExactCacheLike) -> None:
    assert not put(cache, "one", use=Use(read=False, keep=False))
    put(cache, "one")
    assert got(cache, "one", Use(read=False, keep=True)) is None


def test_time_ends_an_entry(cache: ExactCacheLike, clock: Clock) -> None:
    put(cache, "one")
    clock.s += 30
    assert got(cache, "one", Use(read=True, keep=True, max_age_s=29)) is None
    assert got(cache, "one", Use(read=True, keep=True, max_age_s=30)) == "one"
    clock.s += 30
    assert got(cache, "one") is None
    clock.s -= 100  # the clock was wrong, or is now
    assert got(cache, "one") is None


def test_the_least_recently_used_goes_first(cache: ExactCacheLike) -> None:
    for name in "abcd":
        assert put(cache, name, size=800)
    assert got(cache, "a") == "a"
    put(cache, "e", size=800)
    assert [got(cache, name) for name in "abcde"] == ["a", None, "c", "d", "e"]


def test_entries_whose_time_is_over_go_before_living_ones(
    cache: ExactCacheLike, clock: Clock
) -> None:
    put(cache, "old", size=800)
    clock.s += 59
    for name in "bcd":
        put(cache, name, size=800)
    got(cache, "old")  # used last, but its time is over soon
    clock.s += 1
    put(cache, "e", size=800)
    assert [got(cache, name) for name in "bcde"] == ["b", "c", "d", "e"]


def test_what_is_too_large_is_not_kept(cache: ExactCacheLike) -> None:
    assert not put(cache, "large", size=1500)
    assert not put(cache, "labelled", tags=frozenset(f"t{n}" for n in range(17)))
    assert cache.size().entries == 0


def test_purges_match_everything_given(cache: ExactCacheLike) -> None:
    put(cache, "one", tags=frozenset({"news"}))
    put(cache, "two", tags=frozenset({"news", "sport"}), tenant="b")
    put(cache, "three", digest="d2")
    put(cache, "four")
    assert cache.purge(tag="sport", tenant="a") == 0
    assert cache.purge(tag="news", tenant="b") == 1
    assert cache.purge(model_digest="d2") == 1
    assert cache.purge(key=cache_key(ask("four"))) == 1
    assert cache.purge(tag="news") == 1
    assert cache.purge() == 0
    assert cache.size().bytes == 0


def test_an_answer_made_before_a_purge_does_not_come_back(cache: ExactCacheLike) -> None:
    for forget in (lambda: cache.purge(tenant="a"), cache.new_epoch):
        ticket = cache.lookup(ask("one"), USE)
        assert isinstance(ticket, Ticket)
        forget()
        assert not cache.keep(ticket, Answer({"text": "stale"}), USE)
        assert got(cache, "one") is None


def test_a_new_epoch_hides_everything_at_once(cache: ExactCacheLike) -> None:
    put(cache, "one")
    assert cache.new_epoch() == 2
    assert got(cache, "one") is None
    assert put(cache, "one")
    assert got(cache, "one") == "one"
    assert cache.size().entries == 1


class Twins(RuleBasedStateMachine):
    """Whatever is done, the file and its twin in memory answer alike and stay in bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.disk: ExactCache | None = None

    @initialize()
    def start(self) -> None:
        from edge_runtime.cache.file import _connect

        connection = _connect(Path(":memory:"))
        self.disk = ExactCache(connection, connection, SMALL, self.clock)
        self.memory = MemoryCache(self.clock, SMALL)

    def both(self) -> tuple[ExactCacheLike, ExactCacheLike]:
        assert self.disk is not None
        return self.disk, self.memory

    @rule(text=st.sampled_from("abcdefgh"), size=st.integers(0, 1200), ttl=st.integers(1, 90))
    def keep(self, text: str, size: int, ttl: int) -> None:
        use = Use(read=True, keep=True, ttl_s=ttl)
        tags = frozenset({"vowel"}) if text in "ae" else frozenset()
        kept = [put(one, text, size=size, use=use, tags=tags) for one in self.both()]
        assert kept[0] == kept[1]

    @rule(text=st.sampled_from("abcdefgh"))
    def look(self, text: str) -> None:
        found = [got(one, text) for one in self.both()]
        assert found[0] == found[1]

    @rule(seconds=st.integers(1, 50))
    def wait(self, seconds: int) -> None:
        self.clock.s += seconds

    @rule()
    def purge(self) -> None:
        gone = [one.purge(tag="vowel") for one in self.both()]
        assert gone[0] == gone[1]

    @rule()
    def new_epoch(self) -> None:
        assert self.both()[0].new_epoch() == self.both()[1].new_epoch()

    @invariant()
    def bounded_and_alike(self) -> None:
        if self.disk is not None:
            sizes = [one.size() for one in self.both()]
            assert sizes[0] == sizes[1]
            assert sizes[0].bytes <= SMALL.max_bytes

    def teardown(self) -> None:
        if self.disk is not None:
            self.disk.close()


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def test_the_next_process_finds_what_was_kept(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "box" / "cache.db"
    with ExactCache.open(path, limits=SMALL, clock=clock) as cache:
        for name in "abcd":
            put(cache, name, size=800)
        assert got(cache, "a") == "a"  # its use is written at close
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with ExactCache.open(path, limits=SMALL, clock=clock) as cache:
        put(cache, "e", size=800)
        assert [got(cache, name) for name in "abcde"] == ["a", None, "c", "d", "e"]


def test_a_smaller_limit_holds_at_once(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "cache.db"
    with ExactCache.open(path, limits=SMALL, clock=clock) as cache:
        for name in "abcd":
            put(cache, name, size=800)
    smaller = CacheLimits(max_bytes=3000, max_entry_bytes=1500)
    with ExactCache.open(path, limits=smaller, clock=clock) as cache:
        assert cache.size().bytes <= 3000
        assert got(cache, "d") == "d"


def test_a_damaged_or_older_cache_is_made_anew(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "cache.db"
    limits = CacheLimits(max_bytes=1 << 20, max_entry_bytes=1 << 19)
    with ExactCache.open(path, limits=limits, clock=clock) as cache:
        for number in range(100):
            put(cache, f"{number}", size=2000)
    data = bytearray(path.read_bytes())
    data[8192 : len(data) - 8192] = bytes(len(data) - 16384)
    path.write_bytes(data)
    with ExactCache.open(path, limits=limits, clock=clock) as cache:
        assert cache.size().entries == 0
        put(cache, "one")
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {EXACT.version + 1}")
    other.close()
    with ExactCache.open(path, limits=limits, clock=clock) as cache:
        assert got(cache, "one") is None


def test_what_is_not_a_cache_is_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("important " * 100)
    with pytest.raises(ConfigError, match="not an SQLite file"):
        ExactCache.open(text)
    assert text.read_text().startswith("important")
    foreign = tmp_path / "foreign.db"
    other = sqlite3.connect(foreign)
    other.execute("CREATE TABLE something (a)")
    other.commit()
    other.close()
    with pytest.raises(ConfigError, match="not a cache"):
        ExactCache.open(foreign)
    with pytest.raises(ConfigError, match="may write"):
        ExactCache.open(text / "below" / "cache.db")


def test_a_damaged_answer_is_dropped(tmp_path: Path, clock: Clock) -> None:
    with ExactCache.open(tmp_path / "cache.db", clock=clock) as cache:
        put(cache, "one")
        cache._connection.execute("UPDATE entries SET answer = x'00'")
        assert got(cache, "one") is None
        assert cache.size().entries == 0
        assert put(cache, "one")


def test_uses_are_written_a_few_at_a_time(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExactCache.open(tmp_path / "cache.db", clock=clock) as cache:
        cache._connection.execute("PRAGMA synchronous = OFF")
        for number in range(USES_AT_ONCE + 5):
            put(cache, f"{number}")
        for number in range(USES_AT_ONCE + 5):
            got(cache, f"{number}")
        assert len(cache._uses) == USES_AT_ONCE + 5
        put(cache, "one more")
        assert len(cache._uses) == 5
        monkeypatch.setattr(uses, "USES_REMEMBERED", 3)
        for number in range(10):
            got(cache, f"{number}")
        assert len(cache._uses) == 5


def test_a_lookup_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    with ExactCache.open(tmp_path / "cache.db", limits=SMALL) as cache:
        put(cache, "one")
        with cache._lock, cache._uses.transaction():
            cache._connection.execute("DELETE FROM entries")
            assert got(cache, "one") == "one"
        assert got(cache, "one") is None


def test_a_full_disk_costs_the_cache_but_no_answer(tmp_path: Path) -> None:
    with ExactCache.open(tmp_path / "cache.db") as cache:
        put(cache, "one")
        pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
        cache._connection.execute(f"PRAGMA max_page_count = {pages}")
        assert not put(cache, "two", size=100_000)
        assert got(cache, "one") == "one"
        cache._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(EngineError, match="could not be purged"):
            cache.purge()
        with pytest.raises(EngineError, match="could not be purged"):
            cache.new_epoch()
        cache._connection.execute("PRAGMA query_only = OFF")
        cache._reader.close()
        assert got(cache, "one") is None


def test_threads_share_it(tmp_path: Path) -> None:
    with ExactCache.open(tmp_path / "cache.db", limits=SMALL) as cache:
        wrong: list[str] = []

        def work(number: int) -> None:
            for turn in range(30):
                name = f"{(number + turn) % 5}"
                put(cache, name)
                if got(cache, name) not in (name, None):
                    wrong.append(name)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert cache.size().entries == 5
