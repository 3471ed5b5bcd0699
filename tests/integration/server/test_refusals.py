"""Every refusal is the envelope with the right status, whatever is wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from edge_runtime.config import Settings
from edge_runtime.metrics import Metrics
from edge_runtime.server.app import create_app
from edge_runtime.server.fake_host import FakeHost
from edge_runtime.server.replies import CODES
from edge_runtime.server.serve import listening

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


async def refusal(response: aiohttp.ClientResponse, status: int, code: str) -> dict[str, Any]:
    assert response.status == status, await response.text()
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code
    assert CODES[code][0] == status
    assert response.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route_not_found"),
        ("POST", "/v1/nowhere", 404, "route_not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/echo", 405, "method_not_allowed"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
    ],
)
async def test_paths(
    client: aiohttp.ClientSession, method: str, path: str, status: int, code: str
) -> None:
    async with client.request(method, path) as response:
        await refusal(response, status, code)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'"x"', b"null", b'{"model": "\xff"}', b'{"model": NaN}', b"[" * 5000],
)
async def test_bodies_that_are_no_json_object(client: aiohttp.ClientSession, raw: bytes) -> None:
    async with client.post(CHAT, data=raw) as response:
        await refusal(response, 400, "invalid_json")


async def test_lone_surrogates_are_refused(client: aiohttp.ClientSession) -> None:
    raw = b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud800"}]}'
    async with client.post(CHAT, data=raw) as response:
        await refusal(response, 400, "invalid_json")


@pytest.mark.parametrize(
    ("extra", "code", "param"),
    [
        ({"messages": None}, "invalid_value", "messages"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "missing_field", "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": "x", "colour": 1}]},
            "unknown_field",
            "messages.0.colour",
        ),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"temperature": "1"}, "invalid_value", "temperature"),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": 65}, "invalid_value", "n"),
        ({"n": True}, "invalid_value", "n"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "invalid_value", "max_completion_tokens"),
        ({"stop": ["x"] * 17}, "invalid_value", "stop"),
        ({"stop": [""]}, "invalid_value", "stop"),
        ({"logit_bias": {"a": 1}}, "invalid_value", "logit_bias"),
        ({"logit_bias": {"262": 1}}, "invalid_value", "logit_bias"),
        ({"logit_bias": {"1": 101}}, "invalid_value", "logit_bias"),
        ({"stop_token_ids": [999]}, "invalid_value", "stop_token_ids"),
        ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "invalid_value", "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
        ({"tools": [{"type": "function"}]}, "field_not_served", "tools"),
        ({"tool_choice": "required"}, "field_not_served", "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "field_not_served", "response_format"),
        ({"functions": [{}]}, "field_not_served", "functions"),
        ({"modalities": ["audio"]}, "field_not_served", "modalities"),
        ({"reasoning_effort": "high"}, "field_not_served", "reasoning_effort"),
        ({"temprature": 1}, "unknown_field", "temprature"),
        ({"model": "bytes-embed"}, "wrong_model_kind", "model"),
        ({"model": "plain"}, "no_chat_template", "model"),
        ({"model": ""}, "invalid_value", "model"),
    ],
)
async def test_fields(
    client: aiohttp.ClientSession, extra: dict[str, object], code: str, param: str
) -> None:
    async with client.post(CHAT, json={**HELLO, **extra}) as response:
        error = await refusal(response, 400, code)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


async def test_missing_field_is_named(client: aiohttp.ClientSession) -> None:
    async with client.post(CHAT, json={"messages": HELLO["messages"]}) as response:
        assert (await refusal(response, 400, "missing_field"))["param"] == "model"


async def test_typo_gets_a_suggestion(client: aiohttp.ClientSession) -> None:
    async with client.post(CHAT, json={**HELLO, "temprature": 1}) as response:
        assert "temperature" in (await refusal(response, 400, "unknown_field"))["message"]


async def test_values_that_ask_for_nothing_are_fine(client: aiohttp.ClientSession) -> None:
    neutral = {
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "functions": None,
        "temperature": None,
        "n": None,
        "stop": None,
        "parallel_tool_calls": True,
    }
    async with client.post(CHAT, json={**HELLO, **neutral}) as response:
        assert response.status == 200


async def test_inert_fields_are_ignored_and_counted(
    client: aiohttp.ClientSession, metrics: Metrics
) -> None:
    inert = {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"}
    async with client.post(CHAT, json={**HELLO, **inert}) as response:
        assert response.status == 200
    for name in inert:
        count = metrics.registry.get_sample_value("edge_http_inert_fields_total", {"field": name})
        assert count == 1


async def test_unknown_model_is_404(client: aiohttp.ClientSession) -> None:
    async with client.post(CHAT, json={**HELLO, "model": "gpt-x"}) as response:
        error = await refusal(response, 404, "model_not_found")
    assert error["param"] == "model"


async def test_context_overflow_names_both_numbers(client: aiohttp.ClientSession) -> None:
    body = {"model": "echo", "prompt": "x" * 300}
    async with client.post("/v1/completions", json=body) as response:
        error = await refusal(response, 400, "context_length_exceeded")
    assert "256" in error["message"]
    assert "301 in the prompt" in error["message"]
    body = {"model": "plain", "prompt": "x" * 200, "max_tokens": 100}
    async with client.post("/v1/completions", json=body) as response:
        error = await refusal(response, 400, "context_length_exceeded")
    assert "301" in error["message"]


async def test_more_than_the_output_cap_names_both_numbers(
    client: aiohttp.ClientSession,
) -> None:
    async with client.post(CHAT, json={**HELLO, "max_tokens": 129}) as response:
        error = await refusal(response, 400, "max_tokens_exceeded")
    assert "129" in error["message"]
    assert "128" in error["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-edge-class": "urgent"},
        {"x-edge-deadline-ms": "0"},
        {"x-edge-deadline-ms": "1.5"},
        {"x-edge-deadline-ms": "99999999999999"},
        {"x-edge-deadline-ms": "600001"},
    ],
)
async def test_edge_headers(client: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    async with client.post(CHAT, json=HELLO, headers=headers) as response:
        error = await refusal(response, 400, "invalid_header")
    assert error["param"] in headers


async def test_unsafe_request_id_is_replaced(client: aiohttp.ClientSession) -> None:
    async with client.get("/health", headers={"x-request-id": "a b"}) as response:
        assert response.headers["x-request-id"] != "a b"


async def test_large_bodies_are_413(host: FakeHost) -> None:
    settings = Settings.model_validate({"server": {"port": 0, "max_body_bytes": 1024}})
    app = create_app(host, settings, Metrics())
    async with (
        listening(app, settings) as url,
        aiohttp.ClientSession(url) as client,
        client.post(CHAT, data=b"x" * 1025) as response,
    ):
        await refusal(response, 413, "body_too_large")


async def test_slow_bodies_are_408(host: FakeHost) -> None:
    settings = Settings.model_validate({"server": {"port": 0, "body_timeout_s": 0.01}})
    never = asyncio.Event()

    async def body() -> Any:
        yield b"{"
        await never.wait()

    app = create_app(host, settings, Metrics())
    async with (
        listening(app, settings) as url,
        aiohttp.ClientSession(url) as client,
        client.post(CHAT, data=body()) as response,
    ):
        await refusal(response, 408, "body_timeout")


async def test_loading_is_503_with_reason_also_for_names_not_known_yet(
    client: aiohttp.ClientSession, host: FakeHost
) -> None:
    host.not_ready_reason = "loading assistant (2 of 3)"
    async with client.get("/health") as response:
        error = await refusal(response, 503, "unavailable")
    assert error["message"] == "loading assistant (2 of 3)"
    assert error["type"] == "unavailable_error"
    async with client.post(CHAT, json={**HELLO, "model": "later"}) as response:
        assert response.headers["Retry-After"] == "5"
        await refusal(response, 503, "unavailable")
    async with client.post(CHAT, json=HELLO) as response:
        assert response.status == 200


async def test_more_requests_than_may_run_are_429(host: FakeHost) -> None:
    settings = Settings.model_validate({"server": {"port": 0, "max_concurrent_requests": 1}})
    app = create_app(host, settings, Metrics())
    host.pause_after = 1
    async with listening(app, settings) as url, aiohttp.ClientSession(url) as client:
        first = asyncio.create_task(client.post(CHAT, json=HELLO))
        await host.paused.wait()
        async with client.post(CHAT, json=HELLO) as response:
            await refusal(response, 429, "over_capacity")
        async with client.get("/health") as response:
            assert response.status == 200
        host.resume.set()
        async with await first as response:
            assert response.status == 200
        host.pause_after = None
        async with client.post(CHAT, json=HELLO) as response:
            assert response.status == 200
