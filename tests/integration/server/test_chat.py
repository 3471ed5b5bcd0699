"""POST /v1/chat/completions over a real socket and an in-memory host."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from edge_runtime.errors import CapacityError
from edge_runtime.server.fake_host import FakeHost

URL = "/v1/chat/completions"
HELLO = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


async def events_of(response: aiohttp.ClientResponse) -> list[Any]:
    lines = (await response.read()).decode().split("\n\n")
    texts = [line.removeprefix("data: ") for line in lines if line]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


async def test_whole_answer_has_text_usage_timings_and_headers(
    client: aiohttp.ClientSession,
) -> None:
    async with client.post(URL, json=HELLO, headers={"x-request-id": "abc"}) as response:
        answer = await response.json()
    assert response.status == 200
    assert response.headers["x-request-id"] == "abc"
    assert response.headers["x-edge-answered-by"] == "echo@1.0"
    assert response.headers["x-edge-tier"] == "local"
    assert response.headers["x-edge-reason"]
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "hello", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert answer["edge"]["timings"]["queue_ms"] == 1.0
    assert answer["edge"]["answered_by"] == "echo@1.0"


async def test_stream_is_role_then_text_then_reason_and_edge_then_done(
    client: aiohttp.ClientSession,
) -> None:
    async with client.post(URL, json={**HELLO, "stream": True}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["x-edge-answered-by"] == "echo@1.0"
        events = await events_of(response)
    assert events[-1] == "[DONE]"
    chunks = events[:-1]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "hello"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["edge"]["tier"] == "local"
    assert all("usage" not in chunk for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_usage_chunk_has_no_choices_and_earlier_chunks_say_null(
    client: aiohttp.ClientSession,
) -> None:
    body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    async with client.post(URL, json=body) as response:
        *chunks, last, done = await events_of(response)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 6
    assert "edge" in last
    assert all(chunk["usage"] is None for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
async def test_characters_are_never_split(client: aiohttp.ClientSession, stream: bool) -> None:
    body = {"model": "echo", "stream": stream, "messages": [{"role": "user", "content": "a😀é"}]}
    async with client.post(URL, json=body) as response:
        if stream:
            chunks = (await events_of(response))[:-1]
            pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
            assert [piece for piece in pieces if piece] == ["a", "😀", "é"]
        else:
            answer = await response.json()
            assert answer["choices"][0]["message"]["content"] == "a😀é"


async def test_n_gives_that_many_choices_with_seeds_of_their_own(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    async with client.post(URL, json={**HELLO, "n": 3, "seed": 7}) as response:
        answer = await response.json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [one.params.seed for one in host.requests] == [7, 8, 9]
    prompt_len = len(host.requests[0].prompt)
    assert answer["usage"]["prompt_tokens"] == prompt_len
    assert answer["usage"]["completion_tokens"] == 18


async def test_streamed_choices_interleave_and_end_once(client: aiohttp.ClientSession) -> None:
    async with client.post(URL, json={**HELLO, "n": 2, "stream": True}) as response:
        *chunks, done = await events_of(response)
    assert done == "[DONE]"
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in own) == "hello"
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == ["stop"]
    assert [("edge" in chunk) for chunk in chunks].count(True) == 1


async def test_logprobs_have_the_chat_shape(client: aiohttp.ClientSession) -> None:
    body = {**HELLO, "logprobs": True, "top_logprobs": 2}
    async with client.post(URL, json=body) as response:
        answer = await response.json()
    content = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == list("hello")
    assert content[0]["bytes"] == [104]
    assert len(content[0]["top_logprobs"]) == 2
    assert content[0]["logprob"] == -0.5


async def test_stop_and_length_are_told_apart(client: aiohttp.ClientSession) -> None:
    async with client.post(URL, json={**HELLO, "stop": "l"}) as response:
        answer = await response.json()
    assert answer["choices"][0]["message"]["content"] == "he"
    assert answer["choices"][0]["finish_reason"] == "stop"
    async with client.post(URL, json={**HELLO, "max_completion_tokens": 2}) as response:
        answer = await response.json()
    assert answer["choices"][0]["message"]["content"] == "he"
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_text_parts_are_joined_and_other_parts_refused(
    client: aiohttp.ClientSession,
) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    body = {"model": "echo", "messages": [{"role": "user", "content": parts}]}
    async with client.post(URL, json=body) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == "one two"
    parts.append({"type": "image_url", "image_url": {"url": "http://x"}})  # type: ignore[dict-item]
    async with client.post(URL, json=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["code"] == "field_not_served"
    assert "image_url" in error["message"]


async def test_request_options_reach_the_engine(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    body = {
        **HELLO,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.1,
        "logit_bias": {"5": -100},
        "stop": ["x", "yy"],
        "max_tokens": 9,
    }
    headers = {"x-edge-class": "batch", "x-edge-deadline-ms": "5000"}
    async with client.post(URL, json=body, headers=headers) as response:
        assert response.status == 200
    sent = host.requests[0]
    params = sent.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0, 0.5, 3, 0.1)
    assert (params.presence_penalty, params.frequency_penalty) == (1, -1)
    assert params.repetition_penalty == 1.1
    assert params.logit_bias == {5: -100}
    assert params.stop == ("x", "yy")
    assert params.max_tokens == 9
    assert sent.request_class == "batch"
    assert sent.deadline_s is not None
    assert sent.deadline_s - sent.arrival_s == pytest.approx(5.0)


async def test_absent_max_tokens_takes_the_cap_or_the_room(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    async with client.post(URL, json=HELLO) as response:
        assert response.status == 200
    long = {"model": "echo", "messages": [{"role": "user", "content": "x" * 200}]}
    async with client.post(URL, json=long) as response:
        assert response.status == 200
    assert host.requests[0].params.max_tokens == 128
    assert host.requests[1].params.max_tokens == 256 - len(host.requests[1].prompt)


async def test_engine_error_is_a_500_before_and_an_event_after_the_first_token(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    host.fail_after = 0
    async with client.post(URL, json={**HELLO, "stream": True}) as response:
        assert response.status == 500
        assert (await response.json())["error"]["code"] == "engine_error"
    host.fail_after = 2
    async with client.post(URL, json={**HELLO, "stream": True}) as response:
        assert response.status == 200
        events = await events_of(response)
    assert events[-1]["error"]["code"] == "engine_error"
    assert events[-1]["error"]["message"] == "it broke"
    assert "[DONE]" not in events


async def test_bug_inside_a_stream_is_told_without_its_text(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    host.crash_after = 1
    async with client.post(URL, json={**HELLO, "stream": True}) as response:
        events = await events_of(response)
    assert events[-1]["error"]["code"] == "internal_error"
    assert "bug" not in events[-1]["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
async def test_refused_admission_keeps_its_status_and_says_when_to_return(
    client: aiohttp.ClientSession, host: FakeHost, stream: bool, n: int
) -> None:
    host.refusal = CapacityError("the queue is full", retry_after_s=2.2)
    async with client.post(URL, json={**HELLO, "stream": stream, "n": n}) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "3"
        assert response.headers["retry-after-ms"] == "2200"
        error = (await response.json())["error"]
    assert error == {
        "message": "the queue is full",
        "type": "rate_limit_error",
        "param": None,
        "code": "over_capacity",
    }
