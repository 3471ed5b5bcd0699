"""A real bundle is swapped behind the HTTP routes while clients ask."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from edge_runtime.bundle.activation import Committed, Refused
from edge_runtime.bundle.store import Store
from edge_runtime.config import Settings
from edge_runtime.host import Host, open_host
from edge_runtime.metrics import Metrics
from edge_runtime.server.app import create_app
from edge_runtime.server.serve import listening
from tests.support.served import build_decoder, change_manifest, install, make_settings

SOON_S = 60.0
BODY = {"model": "tiny", "prompt": "hello", "max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str, str]:
    """Version 1 active; the digests of a version 2 and of one whose golden answer is wrong."""
    root = tmp_path_factory.mktemp("swap")
    settings = make_settings(root / "store", swap_grace_s=0.2)
    bundle = build_decoder(root)
    change_manifest(bundle, version="1.0.0")
    install(settings, [bundle])
    with Store.open(settings.store.path) as store:
        change_manifest(bundle, version="2.0.0")
        second = store.stage(bundle)
        golden = [{"input": "hello", "answer": "something else"}]
        change_manifest(bundle, version="3.0.0", golden=golden)
        third = store.stage(bundle)
    return settings, second, third


async def until_loaded(host: Host) -> None:
    async with asyncio.timeout(SOON_S):
        await host.swapper.loaded.wait()
    assert host.ready, host.not_ready_reason


async def test_no_request_is_dropped_while_a_bundle_is_swapped(
    served: tuple[Settings, str, str],
) -> None:
    settings, second, third = served
    metrics, going = Metrics(), True
    seen: list[tuple[str, str]] = []

    async def ask(client: aiohttp.ClientSession, *, stream: bool) -> None:
        while going:
            body: dict[str, Any] = {**BODY, "stream": stream}
            async with client.post("/v1/completions", json=body) as response:
                assert response.status == 200, await response.text()
                data = await response.text()
                assert "[DONE]" in data if stream else '"finish_reason":"length"' in data
                seen.append((response.headers["x-edge-answered-by"], "" if stream else data))

    async with open_host(settings, metrics) as host:
        await until_loaded(host)
        app = create_app(host, settings, metrics)
        async with listening(app, settings) as url, aiohttp.ClientSession(url) as client:
            askers = [asyncio.create_task(ask(client, stream=number > 1)) for number in range(4)]
            async with asyncio.timeout(SOON_S):
                assert isinstance(await host.activate("tiny", second), Committed)
                refused = await host.activate("tiny", third)
                assert isinstance(refused, Refused)
                assert "golden input 'hello'" in refused.reason
                swapped_at = len(seen)
                while len(seen) < swapped_at + 8:
                    async with client.get("/health") as response:
                        assert response.status == 200
                going = False
                await asyncio.gather(*askers)
    answered_by = {name for name, _ in seen}
    assert answered_by == {"tiny@1.0.0", "tiny@2.0.0"}
    assert seen[-1][0] == "tiny@2.0.0"


async def test_the_next_start_serves_what_was_swapped_in(
    served: tuple[Settings, str, str],
) -> None:
    settings, second, _ = served
    async with open_host(settings, Metrics()) as host:
        await until_loaded(host)
        await host.activate("tiny", second)
    async with open_host(settings, Metrics()) as host:
        await until_loaded(host)
        assert host.info("tiny").bundle_digest == second
