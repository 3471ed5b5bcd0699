"""When the cache may be used, and what makes two questions the same."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.cache.answers import Answer, AnswerScore, decode, encode
from edge_runtime.cache.contract import CacheLimits, fresh_enough
from edge_runtime.cache.key import Question, answer_fields, cache_key
from edge_runtime.cache.policy import (
    Directives,
    Use,
    is_deterministic,
    is_whole,
    parse_cache_control,
    use_for,
)
from edge_runtime.errors import ConfigError

GREEDY = {"temperature": 0}
SCORE = AnswerScore(912_345, "intent", "d" * 64)


@pytest.mark.parametrize(
    ("header", "meaning"),
    [
        (None, Directives()),
        ("", Directives()),
        ("no-store", Directives(no_store=True)),
        ("No-Cache , max-age=5", Directives(no_cache=True, max_age_s=5)),
        ('max-age="60", only-if-cached', Directives(only_if_cached=True, max_age_s=60)),
        ("max-age=soon", Directives(max_age_s=0)),
        ("max-age", Directives(max_age_s=0)),
        ("max-age=99999999999999", Directives(max_age_s=2**31)),
        ("max-stale=5, private", Directives()),
        ('no-cache="a', Directives(no_store=True, no_cache=True)),
        ("max-age=5 no-store", Directives(no_store=True, no_cache=True)),
    ],
)
def test_cache_control_is_read_with_care(header: str | None, meaning: Directives) -> None:
    assert parse_cache_control(header) == meaning


@given(st.text(max_size=60))
def test_no_header_breaks_the_reader(header: str) -> None:
    assert isinstance(parse_cache_control(header), Directives)


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_store_is_never_lost_among_other_things(before: str, after: str) -> None:
    header = f"{before.replace(chr(34), '')},no-store,{after.replace(chr(34), '')}"
    assert parse_cache_control(header).no_store


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        ({}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.1}, False),
        ({"temperature": 1, "seed": 0}, True),
        ({"temperature": False}, False),
        ({"temperature": None, "seed": None}, False),
    ],
)
def test_only_a_repeatable_answer_is_deterministic(
    parameters: dict[str, object], answer: bool
) -> None:
    assert is_deterministic(parameters) is answer


@pytest.mark.parametrize(
    ("header", "use"),
    [
        ("", Use(read=True, keep=True, ttl_s=60)),
        ("no-store", Use(read=False, keep=False, reason="no-store")),
        ("no-cache", Use(read=False, keep=True, ttl_s=60, reason="no-cache")),
        ("max-age=7", Use(read=True, keep=True, ttl_s=7, max_age_s=7)),
        ("max-age=0", Use(read=False, keep=False, max_age_s=0, reason="max-age=0")),
        ("only-if-cached", Use(read=True, keep=True, ttl_s=60, only_if_cached=True)),
    ],
)
def test_what_a_request_may_do(header: str, use: Use) -> None:
    assert use_for(GREEDY, parse_cache_control(header), ttl_s=60) == use


def test_a_sampled_answer_is_kept_only_when_the_caller_says_so() -> None:
    sampled = use_for({"temperature": 1}, Directives(), ttl_s=60)
    assert (sampled.read, sampled.keep) == (False, False)
    assert "sampled" in sampled.reason
    assert use_for({"temperature": 1}, Directives(), ttl_s=60, allowed_by_caller=True).keep
    assert use_for({}, Directives(), ttl_s=60, deterministic_by_nature=True).read
    assert not use_for(GREEDY, Directives(), ttl_s=0).keep


@pytest.mark.parametrize(
    ("reasons", "whole"),
    [
        (["stop"], True),
        (["stop", "tool_calls"], True),
        (["length"], False),
        ([None], False),
        ([], False),
    ],
)
def test_half_an_answer_is_not_an_answer(reasons: list[str | None], whole: bool) -> None:
    assert is_whole(reasons) is whole


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)
bodies = st.dictionaries(st.text(max_size=8), json_values, max_size=6)


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        names = list(value)
        rng.shuffle(names)
        return {name: shuffled(value[name], rng) for name in names}
    return [shuffled(one, rng) for one in value] if isinstance(value, list) else value


def ask(fields: dict[str, Any], **changes: str) -> Question:
    values = {"kind": "chat", "model_digest": "d1", "tenant": "a"} | changes
    return Question(**values, fields=fields)


@given(bodies, st.randoms(use_true_random=False))
def test_the_order_of_members_is_no_difference(body: dict[str, Any], rng: random.Random) -> None:
    assert cache_key(ask(body)) == cache_key(ask(shuffled(body, rng)))


@given(bodies, bodies)
def test_different_questions_have_different_keys(one: dict[str, Any], two: dict[str, Any]) -> None:
    same = answer_fields(one) == answer_fields(two)
    kept = [ask(answer_fields(body)) for body in (one, two)]
    # True == 1 in Python but not in JSON.
    if repr(sorted(answer_fields(one).items())) == repr(sorted(answer_fields(two).items())):
        assert cache_key(kept[0]) == cache_key(kept[1])
    elif not same:
        assert cache_key(kept[0]) != cache_key(kept[1])


@pytest.mark.parametrize("change", [{"kind": "x"}, {"model_digest": "x"}, {"tenant": "x"}])
def test_another_model_tenant_or_route_is_another_question(change: dict[str, str]) -> None:
    fields = {"messages": [{"role": "user", "content": "hi"}]}
    assert cache_key(ask(fields)) != cache_key(ask(fields, **change))


def test_tools_and_numbers_tell_questions_apart() -> None:
    base = {"messages": [{"role": "user", "content": "2+2"}], "temperature": 0}
    variants = [
        base,
        base | {"tools": [{"type": "function", "function": {"name": "f"}}]},
        base | {"messages": [{"role": "user", "content": "2+3"}]},
        base | {"messages": [{"role": "user", "content": "2+2 "}]},
        base | {"max_tokens": 5},
        base | {"seed": 1},
    ]
    assert len({cache_key(ask(one)) for one in variants}) == len(variants)
    assert cache_key(ask(base)) == cache_key(ask(base | {"temperature": 0.0, "seed": None}))


def test_how_an_answer_travels_is_no_part_of_the_question() -> None:
    body = {"stream": True, "stream_options": {}, "user": "u", "stop": None, "prompt": "p"}
    assert answer_fields(body, {"user"}) == {"prompt": "p"}


def test_what_has_no_json_form_has_no_key() -> None:
    with pytest.raises(ValueError, match="JSON"):
        cache_key(ask({"temperature": float("nan")}))
    with pytest.raises(ValueError, match="tenant"):
        cache_key(ask({}, tenant=""))


@given(bodies, st.lists(bodies, max_size=4))
def test_an_answer_comes_back_as_it_was(body: dict[str, Any], pieces: list[dict[str, Any]]) -> None:
    answer = Answer(body, tuple(pieces), 5, 6, 7, "m@1", frozenset({"t"}), SCORE)
    back = decode(encode(answer))
    volatile = {"id", "created", "edge"}
    assert back.body == {key: one for key, one in body.items() if key not in volatile}
    assert len(back.pieces) == len(pieces)
    assert (back.tokens_in, back.tokens_out, back.saved_nano) == (5, 6, 7)
    assert (back.answered_by, back.tags, back.score) == ("m@1", {"t"}, SCORE)


def test_what_belongs_to_one_delivery_is_not_kept() -> None:
    sent = {"id": "x", "created": 5, "edge": {}, "object": "chat.completion"}
    back = decode(encode(Answer(sent, (sent,))))
    assert back.body == {"object": "chat.completion"}
    assert back.pieces == ({"object": "chat.completion"},)


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b"[]", b'{"tokens": 1}', b'{"tokens": [1]}'])
def test_damaged_bytes_are_noticed(data: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode(data)


def test_an_answer_that_is_not_json_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        encode(Answer({"a": object()}))


@pytest.mark.parametrize(
    ("age", "fresh"), [(0, True), (59, True), (60, False), (-5, True), (-6, False)]
)
def test_time_ends_an_entry_and_so_does_a_clock_that_jumped(age: int, fresh: bool) -> None:
    assert fresh_enough(age, 60, Use(read=True, keep=True)) is fresh


def test_a_bound_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_entry_bytes"):
        CacheLimits(max_bytes=100, max_entry_bytes=1000)
