"""The `openai` Python client, unchanged, on every route it knows."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import numpy as np
import openai
import pytest

from edge_runtime.config import Settings
from edge_runtime.errors import CapacityError
from edge_runtime.metrics import Metrics
from edge_runtime.server.app import create_app
from edge_runtime.server.fake_host import FakeHost
from edge_runtime.server.serve import listening

KEY = "a key"
MESSAGES = [{"role": "user", "content": "hello there"}]


@pytest.fixture
async def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def client(host: FakeHost) -> AsyncIterator[openai.AsyncOpenAI]:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    settings = Settings.model_validate({"server": {"port": 0, "api_key_sha256": {"t": digest}}})
    app = create_app(host, settings, Metrics())
    async with (
        listening(app, settings) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as made,
    ):
        yield made


async def test_models(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert names == ["echo", "plain", "bytes-embed", "letter-class"]
    model = await client.models.retrieve("echo")
    assert model.object == "model"
    assert model.owned_by == "edge-runtime"


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="echo",
        messages=MESSAGES,  # type: ignore[arg-type]
        temperature=0,
        max_completion_tokens=50,
        logprobs=True,
        top_logprobs=1,
        user="someone",
        stop=["!"],
    )
    choice = answer.choices[0]
    assert choice.message.content == "hello there"
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert choice.logprobs.content[0].token == "h"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 1


async def test_an_answer_can_be_sent_back_as_it_came(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="echo", messages=MESSAGES)  # type: ignore[arg-type]
    history = [*MESSAGES, answer.choices[0].message.model_dump()]
    again = await client.chat.completions.create(
        model="echo",
        messages=[*history, {"role": "user", "content": "more"}],  # type: ignore[list-item]
    )
    assert again.choices[0].message.content == "more"


async def test_chat_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="echo",
        messages=MESSAGES,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "hello there"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert [reason for reason in reasons if reason] == ["stop"]


async def test_a_stream_without_usage_always_has_a_choice(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="echo",
        messages=MESSAGES,  # type: ignore[arg-type]
        stream=True,
    )
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == (
        "hello there"
    )


async def test_the_clients_stream_helper(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="echo", messages=MESSAGES) as stream:  # type: ignore[arg-type]
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == "hello there"


async def test_completions(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="echo", prompt=["ab", "cd"], echo=True)
    assert [choice.text for choice in answer.choices] == ["abab", "cdcd"]
    answer = await client.completions.create(model="echo", prompt="ab", max_tokens=1, logprobs=1)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == ["a"]


async def test_completions_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model="echo", prompt="hello", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "hello"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


async def test_embeddings_in_the_clients_default_form(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="bytes-embed", input=["hi", "there"])
    floats = await client.embeddings.create(
        model="bytes-embed", input=["hi", "there"], encoding_format="float"
    )
    assert len(answer.data) == 2
    for one, other in zip(answer.data, floats.data, strict=True):
        assert len(one.embedding) == 8
        assert np.allclose(one.embedding, other.embedding, atol=1e-7)
    assert answer.usage.prompt_tokens == 11


async def test_error_classes(client: openai.AsyncOpenAI, host: FakeHost) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-x", messages=MESSAGES)  # type: ignore[arg-type]
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.completions.create(model="echo", prompt="x" * 400)
    assert bad.value.code == "context_length_exceeded"
    assert bad.value.param == "prompt"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").models.list()
    host.refusal = CapacityError("full", retry_after_s=1)
    with pytest.raises(openai.RateLimitError) as full:
        await client.chat.completions.create(model="echo", messages=MESSAGES)  # type: ignore[arg-type]
    assert full.value.response.headers["retry-after"] == "1"
    host.refusal = CapacityError("loading", retry_after_s=1, status=503)
    with pytest.raises(openai.InternalServerError) as loading:
        await client.embeddings.create(model="bytes-embed", input="x")
    assert loading.value.status_code == 503


async def test_a_failure_inside_a_stream_is_raised(
    client: openai.AsyncOpenAI, host: FakeHost
) -> None:
    host.fail_after = 3
    stream = await client.chat.completions.create(
        model="echo",
        messages=MESSAGES,  # type: ignore[arg-type]
        stream=True,
    )
    with pytest.raises(openai.APIError) as failed:
        async for _ in stream:
            pass
    assert failed.value.message == "it broke"


async def test_closing_a_stream_frees_the_sequence(
    client: openai.AsyncOpenAI, host: FakeHost
) -> None:
    host.pause_after = 3
    stream = await client.chat.completions.create(
        model="echo",
        messages=MESSAGES,  # type: ignore[arg-type]
        stream=True,
    )
    await host.paused.wait()
    await stream.close()
    await host.ended.wait()
    assert host.cancelled == 1
