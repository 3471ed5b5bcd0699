"""API keys, web pages, draining."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from edge_runtime.config import Settings
from edge_runtime.errors import ConfigError
from edge_runtime.metrics import Metrics
from edge_runtime.server.app import create_app
from edge_runtime.server.context import CURRENT
from edge_runtime.server.fake_host import FakeHost
from edge_runtime.server.serve import listening, serve

CHAT = "/v1/chat/completions"
HELLO = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
KEYS = {tenant: hashlib.sha256(f"key-{tenant}".encode()).hexdigest() for tenant in ("a", "b")}


@contextlib.asynccontextmanager
async def daemon(host: FakeHost, **server: object) -> AsyncIterator[aiohttp.ClientSession]:
    settings = Settings.model_validate({"server": {"port": 0, **server}})
    app = create_app(host, settings, Metrics())
    async with listening(app, settings) as url, aiohttp.ClientSession(url) as session:
        yield session


@pytest.mark.parametrize("header", [None, "Bearer nope", "Basic key-a", "Bearer", "key-a"])
async def test_wrong_keys_are_401(host: FakeHost, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with daemon(host, api_key_sha256=KEYS) as client:
        for path in ("/v1/models", "/metrics", "/nowhere"):
            async with client.get(path, headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                error = (await response.json())["error"]
            assert error["code"] == "invalid_api_key"
            assert error["type"] == "authentication_error"
        async with client.get("/health", headers=headers) as response:
            assert response.status == 200


@pytest.mark.parametrize("tenant", ["a", "b"])
async def test_right_keys_are_let_in(host: FakeHost, tenant: str) -> None:
    headers = {"Authorization": f"Bearer key-{tenant}"}
    async with (
        daemon(host, api_key_sha256=KEYS) as client,
        client.post(CHAT, json=HELLO, headers=headers) as response,
    ):
        assert response.status == 200


async def test_metrics_may_be_opened(host: FakeHost) -> None:
    async with (
        daemon(host, api_key_sha256=KEYS, open_metrics=True) as client,
        client.get("/metrics") as response,
    ):
        assert response.status == 200


async def test_pages_of_other_origins_are_refused(host: FakeHost) -> None:
    async with daemon(host) as client:
        headers = {"Origin": "http://evil.example"}
        async with client.post(CHAT, json=HELLO, headers=headers) as response:
            assert response.status == 403
            assert (await response.json())["error"]["code"] == "forbidden_origin"
            assert "Access-Control-Allow-Origin" not in response.headers
        headers = {"Origin": f"http://{response.request_info.url.authority}"}
        async with client.post(CHAT, json=HELLO, headers=headers) as response:
            assert response.status == 200
    assert host.started == 1


async def test_rebound_names_are_refused_unless_allowed(host: FakeHost) -> None:
    headers = {"Host": "evil.example:8080"}
    async with daemon(host) as client:
        async with client.get("/v1/models", headers=headers) as response:
            assert response.status == 403
            assert (await response.json())["error"]["code"] == "forbidden_host"
        for good in ("localhost:8080", "127.0.0.1", "[::1]:80"):
            async with client.get("/v1/models", headers={"Host": good}) as response:
                assert response.status == 200
    async with (
        daemon(host, allowed_hosts=["evil.example"]) as client,
        client.get("/v1/models", headers=headers) as response,
    ):
        assert response.status == 200


async def test_allowed_origins_get_cors_headers(host: FakeHost) -> None:
    origin = "https://app.example"
    async with daemon(host, cors_allowed_origins=[origin]) as client:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        async with client.options(CHAT, headers=headers) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == origin
            assert "POST" in response.headers["Access-Control-Allow-Methods"]
        body = {**HELLO, "stream": True}
        async with client.post(CHAT, json=body, headers={"Origin": origin}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == origin


async def test_draining_refuses_new_work_and_lets_the_old_end(host: FakeHost) -> None:
    settings = Settings.model_validate({"server": {"port": 0, "drain_timeout_s": 5}})
    app = create_app(host, settings, Metrics())
    host.pause_after = 1
    stack = contextlib.AsyncExitStack()
    async with aiohttp.ClientSession() as client:
        url = await stack.enter_async_context(listening(app, settings))
        async with client.get(f"{url}/health") as kept:
            assert kept.status == 200
        running = asyncio.create_task(client.post(f"{url}{CHAT}", json=HELLO))
        await host.paused.wait()
        app[CURRENT].services.traffic.draining = True
        async with client.post(f"{url}{CHAT}", json=HELLO) as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "unavailable"
        async with client.get(f"{url}/health") as response:
            assert response.status == 503
        closing = asyncio.create_task(stack.aclose())
        host.resume.set()
        async with await running as response:
            assert (await response.json())["choices"][0]["message"]["content"] == "hello"
        await closing
    assert host.cancelled == 0


async def test_draining_is_bounded(host: FakeHost) -> None:
    settings = Settings.model_validate({"server": {"port": 0, "drain_timeout_s": 0}})
    app = create_app(host, settings, Metrics())
    host.pause_after = 1
    async with aiohttp.ClientSession() as client:
        async with listening(app, settings) as url:
            running = asyncio.create_task(client.post(f"{url}{CHAT}", json=HELLO))
            await host.paused.wait()
        with pytest.raises(aiohttp.ClientError):
            await running
    assert host.cancelled == 1


async def test_a_port_that_is_taken_is_a_config_error(host: FakeHost) -> None:
    async with daemon(host) as client:
        assert client._base_url is not None
        settings = Settings.model_validate({"server": {"port": client._base_url.port}})
        with pytest.raises(ConfigError, match=r"server\.port"):
            async with listening(create_app(host, settings, Metrics()), settings):
                pass


async def test_serve_opens_the_host_listens_and_stops(tmp_path: Path) -> None:
    host = FakeHost()
    urls: list[str] = []
    closed: list[bool] = []

    @contextlib.asynccontextmanager
    async def open_host(settings: Settings, metrics: Metrics) -> AsyncIterator[FakeHost]:
        yield host
        closed.append(True)

    async def stop_after_one_request() -> None:
        async with aiohttp.ClientSession(urls[0]) as client, client.get("/health") as response:
            assert response.status == 200

    settings = Settings.model_validate({"server": {"port": 0}, "store": {"path": str(tmp_path)}})
    await serve(settings, open_host, on_listening=urls.append, wait_for_stop=stop_after_one_request)
    assert closed == [True]
    with pytest.raises(aiohttp.ClientError):
        await stop_after_one_request()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_stops_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    host = FakeHost()
    urls: list[str] = []

    @contextlib.asynccontextmanager
    async def open_host(settings: Settings, metrics: Metrics) -> AsyncIterator[FakeHost]:
        yield host

    def on_listening(url: str) -> None:
        urls.append(url)
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)

    settings = Settings.model_validate({"server": {"port": 0}, "store": {"path": str(tmp_path)}})
    async with asyncio.timeout(10):
        await serve(settings, open_host, on_listening=on_listening)
    assert len(urls) == 1


async def test_long_texts_are_tokenised_beside_the_loop(host: FakeHost) -> None:
    async with daemon(host) as client:
        body = {"model": "bytes-embed", "input": "x" * 20_000, "truncate": True}
        async with client.post("/v1/embeddings", json=body) as response:
            assert (await response.json())["usage"]["prompt_tokens"] == 32
