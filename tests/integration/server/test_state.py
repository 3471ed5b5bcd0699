"""GET /v1/models, /health, /metrics; POST /tokenize, /detokenize."""

from __future__ import annotations

import aiohttp

from edge_runtime.metric_specs import SPECS


async def test_models_are_listed_with_kind_and_digests(client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/models") as response:
        listing = await response.json()
    assert listing["object"] == "list"
    cards = {card["id"]: card for card in listing["data"]}
    assert set(cards) == {"echo", "plain", "bytes-embed", "letter-class"}
    assert cards["echo"]["kind"] == "generate"
    assert cards["echo"]["max_model_len"] == 256
    assert cards["letter-class"]["labels"] == 3
    async with client.get("/v1/models/echo") as response:
        assert await response.json() == cards["echo"]


async def test_health_names_the_models(client: aiohttp.ClientSession) -> None:
    async with client.get("/health") as response:
        health = await response.json()
    assert health["status"] == "ok"
    assert "echo@1.0" in health["models"]


async def test_metrics_are_prometheus_text_from_the_registry(
    client: aiohttp.ClientSession,
) -> None:
    async with client.post("/v1/completions", json={"model": "echo", "prompt": "x"}) as response:
        assert response.status == 200
    async with client.get("/nowhere") as response:
        assert response.status == 404
    async with client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = await response.text()
    for spec in SPECS:
        assert f"# HELP {spec.name}" in text
    counted = 'edge_http_requests_total{model="echo",route="/v1/completions",status="200"} 1.0'
    assert counted in text
    assert 'edge_http_requests_total{model="",route="unknown",status="404"} 1.0' in text
    assert 'edge_model_info{kind="generate",model="echo"' in text


async def test_tokens_go_there_and_back(client: aiohttp.ClientSession) -> None:
    body = {"model": "echo", "prompt": "hé", "return_token_strs": True}
    async with client.post("/tokenize", json=body) as response:
        answer = await response.json()
    assert answer["tokens"] == [256, 104, 195, 169]
    assert answer["count"] == 4
    assert answer["max_model_len"] == 256
    assert answer["token_strs"][1] == "h"
    body = {"model": "echo", "tokens": answer["tokens"][1:]}
    async with client.post("/detokenize", json=body) as response:
        assert await response.json() == {"prompt": "hé"}


async def test_messages_are_tokenised_as_the_model_sees_them(
    client: aiohttp.ClientSession,
) -> None:
    messages = [{"role": "user", "content": "x"}]
    async with client.post("/tokenize", json={"model": "echo", "messages": messages}) as response:
        count = (await response.json())["count"]
    chat = {"model": "echo", "messages": messages}
    async with client.post("/v1/chat/completions", json=chat) as response:
        assert (await response.json())["usage"]["prompt_tokens"] == count


async def test_special_tokens_may_be_left_out(client: aiohttp.ClientSession) -> None:
    body = {"model": "bytes-embed", "prompt": "x", "add_special_tokens": False}
    async with client.post("/tokenize", json=body) as response:
        assert (await response.json())["tokens"] == [120]


async def test_prompt_and_messages_exclude_each_other(client: aiohttp.ClientSession) -> None:
    for body in ({"model": "echo"}, {"model": "echo", "prompt": "x", "messages": []}):
        async with client.post("/tokenize", json=body) as response:
            assert response.status == 400


async def test_unknown_token_ids_are_refused(client: aiohttp.ClientSession) -> None:
    async with client.post("/detokenize", json={"model": "echo", "tokens": [262]}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "tokens"
