"""One round through HTTP: streamed /v1/completions with token-array prompts.

Speaks the OpenAI shape only, so that any server with `ignore_eos` can be measured.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp

from benchmarks.rounds import Stream

REQUEST_TIMEOUT_S = 600.0


class HttpRoundError(RuntimeError):
    """The server refused a request, or its stream ended without a usage figure."""


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for raw in response.content:
        line = raw.strip()
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        yield json.loads(data)


async def _stream(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], start_s: float
) -> Stream:
    """One answer. The first token's time is when its text arrived, or what the server reports.

    Text can lag behind its token (half a UTF-8 character is held back; random weights write many),
    so that a figure of the server's `edge` field is preferred where there is one.
    """
    sent_s = time.perf_counter() - start_s
    first_s: float | None = None
    last_s = sent_s
    tokens: int | None = None
    reported_ms: float | None = None
    async with session.post(f"{url}/v1/completions", json=body) as response:
        if response.status != 200:
            raise HttpRoundError(f"{url} answered {response.status}: {await response.text()}")
        async for event in _events(response):
            if "error" in event:
                raise HttpRoundError(f"{url} failed in the stream: {event['error']}")
            if event.get("choices"):
                last_s = time.perf_counter() - start_s
                first_s = last_s if first_s is None else first_s
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            reported_ms = _first_token_ms(event.get("edge")) or reported_ms
    if tokens is None or first_s is None:
        raise HttpRoundError(f"{url} ended a stream without choices or usage")
    if reported_ms is not None:
        first_s = min(first_s, sent_s + reported_ms / 1000)
    return Stream(first_s, last_s, tokens)


def _first_token_ms(edge: Any) -> float | None:
    if not isinstance(edge, dict):
        return None
    timings = edge.get("timings", edge)
    queue_ms, prefill_ms = timings.get("queue_ms"), timings.get("prefill_ms")
    return None if queue_ms is None or prefill_ms is None else float(queue_ms + prefill_ms)


async def run_round(
    url: str, model: str, prompts: Sequence[Sequence[int]], new_tokens: int
) -> tuple[float, list[Stream]]:
    """Send all prompts at once; returns the wall time in seconds and one Stream a prompt.

    Connections are opened before the clock starts: a client keeps them between requests.
    """
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(_touch(session, url) for _ in prompts))
        start_s = time.perf_counter()
        bodies = [completion_body(model, prompt, new_tokens) for prompt in prompts]
        streams = await asyncio.gather(*(_stream(session, url, body, start_s) for body in bodies))
        return time.perf_counter() - start_s, streams


def completion_body(model: str, prompt: Sequence[int], new_tokens: int) -> dict[str, Any]:
    """Greedy, never ended by the end token, with usage at the end of the stream."""
    return {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _touch(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(f"{url}/health") as response:
        await response.read()


async def wait_until_ready(url: str, timeout_s: float) -> None:
    """Poll /health until it says 200; raises HttpRoundError when ``timeout_s`` has passed."""
    last = "no answer"
    deadline_s = time.monotonic() + timeout_s
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline_s:
            try:
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
                    last = f"{response.status} {await response.text()}"
            except aiohttp.ClientError as error:
                last = str(error)
            await asyncio.sleep(0.2)
    raise HttpRoundError(f"{url}/health was not ready within {timeout_s:.0f} s: {last}")
