"""The semantic cache on disk: what is served, bounds, purges, restarts, damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.semantic.contract import (
    SemanticHit,
    SemanticTicket,
)
from edge_runtime.errors import ConfigError
from tests.support.semantic import WORDS, Clock, answer, ask, asked, is_hit, keep, opened, vector_of


def test_a_paraphrase_gets_the_answer_and_a_lookalike_does_not(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    assert keep(store, "what is my balance")
    clock.s += 7
    found = ask(store, "please what is my balance?")
    assert isinstance(found, SemanticHit)
    assert found.answer.body["choices"][0]["message"]["content"] == "answer to what is my balance"
    assert found.age_s == 7
    assert found.question == "what is my balance"
    assert not is_hit(ask(store, "what is not my balance"))
    assert not is_hit(ask(store, "what is my balance", tenant="other"))
    assert not is_hit(ask(store, "what is my balance", digest="other"))
    store.close()


def test_nothing_is_served_past_its_time_or_from_a_wrong_clock(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance", ttl_s=10)
    clock.s += 10
    assert not is_hit(ask(store, "what is my balance"))
    clock.s -= 30
    assert not is_hit(ask(store, "what is my balance"))
    assert not keep(store, "what is my limit", ttl_s=0)
    store.close()


def test_it_survives_a_restart_and_the_same_question_is_kept_once(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance")
    keep(store, "what is my balance")
    assert store.size().entries == 1
    store.close()
    again = opened(path, clock)
    assert is_hit(ask(again, "what is my balance please"))
    again.close()


def test_purges_by_key_tag_tenant_and_model_void_tickets(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance", tags=frozenset({"money"}))
    keep(store, "what is my limit", tenant="other")
    keep(store, "what is my refund", digest="old")
    hit = ask(store, "what is my balance")
    assert isinstance(hit, SemanticHit)
    ticket = ask(store, "what is my passcode")
    assert isinstance(ticket, SemanticTicket)
    assert store.purge(tag="money", tenant="other") == 0
    assert store.purge(tag="money") == 1
    assert store.purge(tenant="other") == 1
    assert store.purge(model_digest="old") == 1
    assert not store.keep(ticket, answer("late"), ttl_s=10)
    keep(store, "what is my balance")
    fresh = ask(store, "what is my balance")
    assert isinstance(fresh, SemanticHit)
    assert store.purge(key=fresh.entry) == 1
    assert store.size().entries == 0
    assert store.size().bytes == 0
    store.close()


def test_a_new_epoch_hides_everything(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance")
    assert store.new_epoch() == 2
    assert not is_hit(ask(store, "what is my balance"))
    assert store.size().entries == 1
    store.close()


def test_bounds_hold_and_the_least_used_goes_first(path: Path, clock: Clock) -> None:
    store = opened(path, clock, max_entries=3)
    for word in WORDS[:3]:
        keep(store, f"what is my {word}")
    assert is_hit(ask(store, f"what is my {WORDS[0]}"))
    keep(store, f"what is my {WORDS[3]}")
    assert store.size().entries == 3
    assert is_hit(ask(store, f"what is my {WORDS[0]}"))
    assert not is_hit(ask(store, f"what is my {WORDS[1]}"))
    store.close()
    smaller = opened(path, clock, max_entries=1)
    assert smaller.size().entries == 1
    smaller.close()


def test_an_answer_that_is_too_large_is_not_kept(path: Path, clock: Clock) -> None:
    store = opened(path, clock, max_entry_bytes=4096)
    ticket = SemanticTicket(asked("what is my balance"), vector_of("a"), 0)
    assert not store.keep(ticket, answer("x" * 5000), ttl_s=10)
    with pytest.raises(ValueError, match="not JSON"):
        store.keep(ticket, Answer({"choices": object()}), ttl_s=10)
    store.close()


def test_a_damaged_file_is_made_anew_and_another_kind_refused(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance")
    store.close()
    data = bytearray(path.read_bytes())
    data[100:6000] = b"\0" * 5900
    path.write_bytes(bytes(data))
    again = opened(path, clock)
    assert again.size().entries == 0
    again.close()
    other = path.with_name("text.db")
    other.write_text("not a database, but somebody's notes" * 30)
    with pytest.raises(ConfigError, match="not an SQLite file"):
        opened(other, clock)


def test_a_damaged_answer_is_dropped(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance")
    store._connection.execute("UPDATE entries SET answer = x'00'")
    assert not is_hit(ask(store, "what is my balance"))
    assert store.size().entries == 0
    store.close()
