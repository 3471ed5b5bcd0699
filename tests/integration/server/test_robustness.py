"""Odd bodies never break the daemon; a crowd of impatient clients leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp
import pytest

from edge_runtime.metrics import Metrics
from edge_runtime.server.fake_host import FakeHost

ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 255, 256, 261, 262, 1 << 40, 1 << 63, 1 << 64, 0.5, -1e308,
    "", "x", "\u0000", "é😀", "x" * 5000, [], {}, [[]], [1, 2], ["a", "b"], [[1], [2]], ["a", 1],
    [None], [True], {"a": 1}, {"1": 1}, {"role": "user"}, [{"role": "user", "content": "hi"}],
    [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], [{"type": "text"}],
    {"include_usage": True}, {"type": "text"}, {"type": "json_object"}, ["x"] * 70, [1] * 300,
]  # fmt: skip
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "echo", "prompt": "hi", "max_tokens": 4},
    "/v1/embeddings": {"model": "bytes-embed", "input": "hi"},
    "/v1/classify": {"model": "letter-class", "input": "hi"},
    "/tokenize": {"model": "echo", "prompt": "hi"},
    "/detokenize": {"model": "echo", "tokens": [104]},
}
FIELDS = [
    "model", "messages", "prompt", "input", "tokens", "n", "best_of", "max_tokens", "stream",
    "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "echo",
    "frequency_penalty", "repetition_penalty", "seed", "stop", "stop_token_ids", "ignore_eos",
    "logit_bias", "logprobs", "top_logprobs", "stream_options", "truncate", "dimensions", "top_k",
    "truncate_prompt_tokens", "encoding_format", "add_special_tokens", "return_token_strs", "user",
    "tools", "response_format", "best",
]  # fmt: skip


@pytest.mark.parametrize("path", sorted(BASES))
async def test_odd_values_are_answered_or_refused_but_never_break(
    client: aiohttp.ClientSession, host: FakeHost, path: str
) -> None:
    odd = random.Random(path)
    statuses: set[int] = set()
    bodies = [{**BASES[path], field: value} for field in BASES[path] for value in ODD_VALUES]
    for _ in range(150):
        changed = {odd.choice(FIELDS): odd.choice(ODD_VALUES) for _ in range(odd.randint(1, 2))}
        bodies.append({**BASES[path], **changed})
    for body in bodies:
        async with client.post(path, json=body) as response:
            text = await response.text()
            statuses.add(response.status)
            assert response.status in {200, 400, 404}, (body, text)
            assert "internal_error" not in text, (body, text)
            assert "engine_error" not in text, (body, text)
    assert {200, 400} <= statuses
    assert host.active == 0


async def test_impatient_clients_leave_nothing_running(
    client: aiohttp.ClientSession, host: FakeHost, metrics: Metrics
) -> None:
    chance = random.Random(1)
    complete = 0

    async def one(n: int, chunks: int | None) -> None:
        nonlocal complete
        body = {"model": "plain", "prompt": "x", "ignore_eos": True, "stream": True, "n": n}
        async with client.post("/v1/completions", json=body) as response:
            assert response.status == 200
            seen = 0
            async for _ in response.content:
                seen += 1
                if seen == chunks:
                    response.close()
                    return
            complete += 1

    plans = [(chance.randint(1, 3), chance.choice([None, 1, 5, 40])) for _ in range(60)]
    async with asyncio.TaskGroup() as group:
        for n, chunks in plans:
            group.create_task(one(n, chunks))
    async with asyncio.timeout(10):
        while host.active:
            host.ended.clear()
            await host.ended.wait()
    async with client.get("/health") as response:  # a round trip later every handler has ended
        assert response.status == 200
    stayed = [n for n, chunks in plans if chunks is None]
    assert complete == len(stayed)
    assert host.started == sum(n for n, _ in plans)
    assert host.cancelled <= host.started - sum(stayed)
    assert metrics.registry.get_sample_value("edge_http_requests_active") == 0
