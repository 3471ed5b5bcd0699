"""A client that goes away frees its sequences at once."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import aiohttp
import pytest

from edge_runtime.config import Settings
from edge_runtime.metrics import Metrics
from edge_runtime.server.app import create_app
from edge_runtime.server.fake_host import FakeHost, fake_models
from edge_runtime.server.serve import listening

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


async def _send(client: aiohttp.ClientSession, path: str, body: object) -> asyncio.StreamWriter:
    """A request on a raw connection, so that the test decides when it ends."""
    url = client._base_url
    assert url is not None
    _, writer = await asyncio.open_connection(url.host, url.port)
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n\r\n"
    writer.write(head.encode() + payload)
    await writer.drain()
    return writer


async def _until_idle(host: FakeHost) -> None:
    while host.active:
        host.ended.clear()
        await host.ended.wait()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_disconnect_cancels_every_sequence(
    client: aiohttp.ClientSession,
    host: FakeHost,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
    n: int,
) -> None:
    host.pause_after = 2
    body = {**CHAT, "stream": stream, "n": n}
    accounted = asyncio.Event()
    observe = metrics.observe

    def noting(name: str, *labels: str, value: float) -> None:
        observe(name, *labels, value=value)
        if name == "edge_http_request_seconds":
            accounted.set()

    monkeypatch.setattr(metrics, "observe", noting)
    writer = await _send(client, "/v1/chat/completions", body)
    await host.paused.wait()
    writer.close()
    async with asyncio.timeout(5):
        await _until_idle(host)
        await accounted.wait()
    assert host.cancelled == n
    route = {"route": "/v1/chat/completions"}
    assert metrics.registry.get_sample_value("edge_http_disconnects_total", route) == 1
    left = {**route, "status": "499", "model": "echo"}
    assert metrics.registry.get_sample_value("edge_http_requests_total", left) == 1
    assert metrics.registry.get_sample_value("edge_http_requests_active") == 0


async def test_disconnect_cancels_before_the_first_token(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    host.pause_after = 0
    writer = await _send(client, "/v1/completions", {"model": "echo", "prompt": "hello"})
    await host.paused.wait()
    writer.close()
    async with asyncio.timeout(5):
        await _until_idle(host)
    assert host.cancelled == 1


async def test_disconnect_cancels_an_encoder_request(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    host.pause_after = 0
    writer = await _send(client, "/v1/embeddings", {"model": "bytes-embed", "input": "hello"})
    await host.paused.wait()
    writer.close()
    async with asyncio.timeout(5):
        await _until_idle(host)
    assert host.cancelled == 1


async def test_others_go_on_when_one_leaves(client: aiohttp.ClientSession, host: FakeHost) -> None:
    host.pause_after = 2
    writer = await _send(client, "/v1/completions", {"model": "echo", "prompt": "hello"})
    await host.paused.wait()
    host.paused.clear()
    other = asyncio.create_task(
        client.post("/v1/completions", json={"model": "echo", "prompt": "stay"})
    )
    await host.paused.wait()
    host.ended.clear()
    writer.close()
    async with asyncio.timeout(5):
        await host.ended.wait()
    host.resume.set()
    async with await other as response:
        assert (await response.json())["choices"][0]["text"] == "stay"
    assert host.cancelled == 1


async def test_a_client_that_stops_reading_is_cut_off() -> None:
    info = next(one for one in fake_models() if one.name == "plain")
    host = FakeHost([dataclasses.replace(info, context_tokens=1 << 16)])
    settings = Settings.model_validate({"server": {"port": 0, "write_timeout_s": 0.05}})
    app = create_app(host, settings, Metrics())
    body = {
        "model": "plain",
        "prompt": "x",
        "stream": True,
        "ignore_eos": True,
        "logprobs": 20,
        "max_tokens": 20_000,  # some 10 MB: more than the buffers between the two hold
    }
    async with listening(app, settings) as url, aiohttp.ClientSession(url) as session:
        writer = await _send(session, "/v1/completions", body)
        async with asyncio.timeout(60):
            await host.ended.wait()
        writer.close()
    assert host.cancelled == 1
