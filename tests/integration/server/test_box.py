"""`/` and `/v1/box`: what the box says of itself."""

from __future__ import annotations

import hashlib

import aiohttp

from edge_runtime.config import Settings
from edge_runtime.metrics import Metrics
from edge_runtime.server.app import create_app
from edge_runtime.server.box import PAGE_ROUTES
from edge_runtime.server.fake_host import FakeHost
from edge_runtime.server.serve import listening

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


async def test_the_page_needs_nothing_from_outside(client: aiohttp.ClientSession) -> None:
    for route in PAGE_ROUTES:
        async with client.get(route) as response:
            assert response.status == 200
            policy = response.headers["Content-Security-Policy"]
            text = await response.text()
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not any(
            word in text.replace("http://www.w3.org/2000/svg", "")
            for word in ("//cdn", "http://", "https://")
        )


async def test_questions_appear_with_who_answered_and_why(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/chat/completions", json=CHAT) as response:
        assert response.status == 200
    async with client.post(
        "/v1/classify", json={"model": "letter-class", "input": "abc"}
    ) as response:
        assert response.status == 200
    async with client.get("/v1/box") as response:
        box = await response.json()
    assert box["traffic"]["tiers"]["local"] == 2
    assert [one["route"] for one in box["recent"]] == ["/v1/classify", "/v1/chat/completions"]
    assert box["recent"][1]["answered_by"] == "echo@1.0"
    assert {model["name"] for model in box["models"]} >= {"echo", "letter-class"}
    assert box["ready"] is True


async def test_probes_and_the_page_itself_are_no_traffic(client: aiohttp.ClientSession) -> None:
    for route in ("/health", "/", "/v1/models", "/v1/box"):
        async with client.get(route) as response:
            assert response.status == 200
    async with client.get("/v1/box") as response:
        assert (await response.json())["traffic"]["questions"] == 0


async def test_a_key_shows_its_own_tenant_and_the_page_comes_without() -> None:
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("one", "two")}
    settings = Settings.model_validate({"server": {"port": 0, "api_key_sha256": keys}})
    app = create_app(FakeHost(), settings, Metrics())
    async with listening(app, settings) as url, aiohttp.ClientSession(url) as session:
        as_one = {"Authorization": "Bearer one"}
        async with session.post("/v1/chat/completions", json=CHAT, headers=as_one) as response:
            assert response.status == 200
        async with session.get("/") as response:
            assert response.status == 200
        async with session.get("/v1/box") as response:
            assert response.status == 401
        for key, expected in (("one", 1), ("two", 0)):
            headers = {"Authorization": f"Bearer {key}"}
            async with session.get("/v1/box", headers=headers) as response:
                box = await response.json()
            assert box["traffic"]["questions"] == len(box["recent"]) == expected
            assert box["since_start"] is None
