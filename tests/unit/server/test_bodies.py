"""Fields: served, inert, refused; and what they become."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.core import Kind, ModelInfo
from edge_runtime.errors import UsageError
from edge_runtime.server.body import INERT, NOT_SERVED, parse_object, sort_fields, validate
from edge_runtime.server.chat import ChatBody
from edge_runtime.server.completions import CompletionBody
from edge_runtime.server.fake_host import ByteCodec, fake_models
from edge_runtime.server.prompts import fit, split_inputs
from edge_runtime.server.sampling import sampling_params, seed_of_choice

ECHO = next(info for info in fake_models() if info.name == "echo")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=2)
    ),
    max_leaves=4,
)
# how long generation takes says nothing about the code on a machine that is busy
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def completion(**fields: Any) -> CompletionBody:
    return validate({"model": "echo", "prompt": "x", **fields}, CompletionBody)


def test_no_field_has_two_fates() -> None:
    for shape in (ChatBody, CompletionBody):
        known = set(shape.model_fields)
        assert not known & INERT
        assert not known & set(NOT_SERVED)
    assert not INERT & set(NOT_SERVED)


@patient
@given(st.dictionaries(st.sampled_from([*ChatBody.model_fields, "tools", "zz"]), json_values))
def test_any_json_is_a_request_or_a_usage_error(data: dict[str, Any]) -> None:
    outcome: ChatBody | UsageError
    try:
        fields, _ = sort_fields(data, ChatBody)
        outcome = validate(fields, ChatBody)
    except UsageError as error:
        outcome = error
    if isinstance(outcome, UsageError):
        assert outcome.status == 400
        assert str(outcome)
    else:
        assert outcome.model == data["model"]


@patient
@given(st.binary(max_size=40))
def test_any_bytes_are_an_object_or_a_usage_error(raw: bytes) -> None:
    try:
        found = type(parse_object(raw)).__name__
    except UsageError as error:
        found = error.code
    assert found in {"dict", "invalid_json"}


@pytest.mark.parametrize("name", sorted(NOT_SERVED))
def test_fields_not_served_are_refused_only_when_they_ask_for_something(name: str) -> None:
    for value in (None, *NOT_SERVED[name]):
        assert sort_fields({name: value}, ChatBody) == ({}, [])
    with pytest.raises(UsageError) as caught:
        sort_fields({name: {"surely": "something"}}, ChatBody)
    assert caught.value.param == name
    assert caught.value.code == "field_not_served"


def test_one_is_not_true() -> None:
    with pytest.raises(UsageError):
        sort_fields({"skip_special_tokens": 1}, ChatBody)


def test_absent_fields_come_from_the_bundle_then_from_openai() -> None:
    info = ModelInfo(
        "m", "1", Kind.GENERATE, "int8", "b", "d", 100, 1,
        default_params={"temperature": 0.2, "top_k": 40.0},
    )  # fmt: skip
    params = sampling_params(completion(), info, 10)
    assert (params.temperature, params.top_k, params.top_p) == (0.2, 40, 1.0)
    assert params.max_tokens == 90
    params = sampling_params(completion(temperature=0, top_k=-1), info, 10)
    assert (params.temperature, params.top_k) == (0.0, 0)


def test_the_answer_takes_the_cap_or_the_room() -> None:
    assert sampling_params(completion(), ECHO, 10).max_tokens == 128
    assert sampling_params(completion(), ECHO, 200).max_tokens == 56
    assert sampling_params(completion(max_tokens=56), ECHO, 200).max_tokens == 56


@pytest.mark.parametrize(
    ("fields", "prompt_len", "code", "numbers"),
    [
        ({"max_tokens": 57}, 200, "context_length_exceeded", ("256", "257", "200", "57")),
        ({}, 256, "context_length_exceeded", ("256", "257")),
        ({"max_tokens": 129}, 1, "max_tokens_exceeded", ("129", "128")),
    ],
)
def test_answers_that_cannot_fit_are_refused_with_the_numbers(
    fields: dict[str, Any], prompt_len: int, code: str, numbers: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        sampling_params(completion(**fields), ECHO, prompt_len)
    assert caught.value.code == code
    for number in numbers:
        assert number in str(caught.value)


def test_logit_bias_has_ids_of_the_model() -> None:
    params = sampling_params(completion(logit_bias={"261": 1, "0": -1.5}), ECHO, 1)
    assert params.logit_bias == {261: 1.0, 0: -1.5}
    with pytest.raises(UsageError, match="262"):
        sampling_params(completion(logit_bias={"262": 1}), ECHO, 1)


def test_seeds_follow_from_the_request_or_differ() -> None:
    params = sampling_params(completion(seed=-1), ECHO, 1)
    assert params.seed is not None
    assert params.seed >= 0
    assert seed_of_choice(params, 1) == (params.seed + 1) % (1 << 63)
    unseeded = sampling_params(completion(), ECHO, 1)
    assert len({seed_of_choice(unseeded, 0) for _ in range(8)}) == 8


def test_both_names_of_max_tokens_and_of_logprobs() -> None:
    messages = [{"role": "user", "content": "x"}]
    base = {"model": "echo", "messages": messages}
    chat = validate({**base, "max_tokens": 5, "max_completion_tokens": 5}, ChatBody)
    assert chat.wanted_tokens == 5
    assert chat.wanted_logprobs is None
    assert validate({**base, "logprobs": True}, ChatBody).wanted_logprobs == 0
    assert completion(logprobs=3).wanted_logprobs == 3
    assert completion(logprobs=0).wanted_logprobs == 0


def test_developer_messages_are_read_as_system() -> None:
    chat = validate(
        {"model": "m", "messages": [{"role": "developer", "content": "x", "name": "n"}]}, ChatBody
    )
    assert chat.messages[0].for_template() == {"role": "system", "content": "x", "name": "n"}


def test_inputs_are_split_by_form() -> None:
    assert split_inputs("a", param="p", limit=1) == ["a"]
    assert split_inputs([1, 2], param="p", limit=1) == [[1, 2]]
    assert split_inputs(["a", "b"], param="p", limit=2) == ["a", "b"]
    assert split_inputs([[1], [2]], param="p", limit=2) == [[1], [2]]
    for bad in ([], ["a", "b", "c"], [[1], []]):
        with pytest.raises(UsageError):
            split_inputs(bad, param="p", limit=2)


@patient
@given(st.text(max_size=60), st.integers(min_value=1, max_value=40))
def test_cut_text_is_a_beginning_between_the_special_tokens(text: str, limit: int) -> None:
    codec = ByteCodec(encoder=True)
    tokens = codec.encode(text, add_special_tokens=True)
    cut = fit(codec, text, tokens, limit)
    assert len(cut) == min(len(tokens), limit)
    if limit >= 2:
        assert cut[0] == tokens[0]
        assert cut[-1] == tokens[-1]
        assert list(cut[1:-1]) == tokens[1 : len(cut) - 1]
