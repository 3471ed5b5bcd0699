"""POST /v1/completions."""

from __future__ import annotations

import json

import aiohttp
import pytest

from edge_runtime.server.fake_host import FakeHost

URL = "/v1/completions"


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("hi", ["hi"]),
        (["hi", "yo"], ["hi", "yo"]),
        ([104, 105], ["hi"]),
        ([[104, 105], [121]], ["hi", "y"]),
    ],
)
async def test_every_form_of_prompt(
    client: aiohttp.ClientSession, prompt: object, texts: list[str]
) -> None:
    async with client.post(URL, json={"model": "echo", "prompt": prompt}) as response:
        answer = await response.json()
    assert response.status == 200
    assert answer["object"] == "text_completion"
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))


async def test_choices_are_ordered_prompt_by_prompt(client: aiohttp.ClientSession) -> None:
    body = {"model": "echo", "prompt": ["a", "b"], "n": 2}
    async with client.post(URL, json=body) as response:
        answer = await response.json()
    assert [choice["text"] for choice in answer["choices"]] == ["a", "a", "b", "b"]
    # each prompt is counted once, each answer on its own
    assert answer["usage"]["prompt_tokens"] == 4
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_puts_the_prompt_first(client: aiohttp.ClientSession, stream: bool) -> None:
    body = {"model": "echo", "prompt": [104, 105], "echo": True, "stream": stream}
    async with client.post(URL, json=body) as response:
        if stream:
            lines = (await response.text()).split("\n\n")[:-2]
            chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
            text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        else:
            text = (await response.json())["choices"][0]["text"]
    assert text == "hihi"


async def test_logprobs_have_the_completions_shape(client: aiohttp.ClientSession) -> None:
    body = {"model": "echo", "prompt": "hi", "logprobs": 2}
    async with client.post(URL, json=body) as response:
        logprobs = (await response.json())["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["h", "i"]
    assert logprobs["token_logprobs"] == [-0.5, -0.5]
    assert logprobs["text_offset"] == [0, 1]
    assert len(logprobs["top_logprobs"][0]) == 2


async def test_streamed_logprobs_keep_counting_the_offset(client: aiohttp.ClientSession) -> None:
    body = {"model": "echo", "prompt": "hi!", "logprobs": 0, "stream": True}
    async with client.post(URL, json=body) as response:
        lines = (await response.text()).split("\n\n")[:-2]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    offsets = [at for chunk in chunks for at in chunk["choices"][0]["logprobs"]["text_offset"]]
    assert offsets == [0, 1, 2]


async def test_ignore_eos_runs_to_the_length(client: aiohttp.ClientSession, host: FakeHost) -> None:
    body = {"model": "echo", "prompt": "a", "ignore_eos": True, "max_tokens": 40}
    async with client.post(URL, json=body) as response:
        answer = await response.json()
    assert answer["usage"]["completion_tokens"] == 40
    assert answer["choices"][0]["finish_reason"] == "length"
    assert host.requests[0].params.ignore_eos


async def test_best_of_is_accepted_only_as_n(client: aiohttp.ClientSession) -> None:
    body = {"model": "echo", "prompt": "a", "best_of": 2}
    async with client.post(URL, json={**body, "n": 2}) as response:
        assert response.status == 200
    async with client.post(URL, json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "best_of"


async def test_echo_with_logprobs_is_refused(client: aiohttp.ClientSession) -> None:
    body = {"model": "echo", "prompt": "a", "echo": True, "logprobs": 1}
    async with client.post(URL, json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "field_not_served"


async def test_more_sequences_than_a_request_may_have(client: aiohttp.ClientSession) -> None:
    body = {"model": "echo", "prompt": ["a"] * 33, "n": 2}
    async with client.post(URL, json=body) as response:
        assert response.status == 400
        message = (await response.json())["error"]["message"]
    assert "66" in message
    assert "64" in message


async def test_without_a_seed_choices_get_different_ones(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    async with client.post(URL, json={"model": "echo", "prompt": "a", "n": 2}) as response:
        assert response.status == 200
    first, second = (one.params.seed for one in host.requests)
    assert first != second
