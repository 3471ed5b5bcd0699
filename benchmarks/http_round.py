"""One round through HTTP: streamed /v1/completions with token-array prompts.

Speaks the OpenAI shape only, so that any server with `ignore_eos` can be measured.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import aiohttp

from benchmarks.rounds import Stream

REQUEST_TIMEOUT_S = 600.0


class HttpRoundError(RuntimeError):
    """The server refused a request, or its stream ended without a usage figure."""


def _payloads(body: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON events of a stream's bytes, each with the offset of its last byte."""
    end = 0
    for line in body.splitlines(keepends=True):
        end += len(line)
        data = line.strip().removeprefix(b"data:").strip()
        if data and data != b"[DONE]":
            yield end - 1, json.loads(data)


async def _stream(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], start_s: float
) -> Stream:
    """One answer. The first token's time is when its text arrived, or what the server reports.

    Text can lag behind its token (half a UTF-8 character is held back; random weights write many),
    so that a figure of the server's `edge` field is preferred where there is one.

    Nothing is parsed while tokens come: the client shares the cores with what it measures.
    """
    sent_s = time.perf_counter() - start_s
    times_s: list[float] = []
    pieces: list[bytes] = []
    async with session.post(f"{url}/v1/completions", json=body) as response:
        if response.status != 200:
            raise HttpRoundError(f"{url} answered {response.status}: {await response.text()}")
        async for piece in response.content.iter_any():
            times_s.append(time.perf_counter() - start_s)
            pieces.append(piece)
    return _read_stream(url, sent_s, times_s, pieces)


def _read_stream(
    url: str, sent_s: float, times_s: Sequence[float], pieces: Sequence[bytes]
) -> Stream:
    ends = list(accumulate(map(len, pieces)))
    with_text_s: list[float] = []
    tokens: int | None = None
    reported_ms: float | None = None
    for last_byte, event in _payloads(b"".join(pieces)):
        if "error" in event:
            raise HttpRoundError(f"{url} failed in the stream: {event['error']}")
        if event.get("choices"):
            with_text_s.append(times_s[bisect_right(ends, last_byte)])
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
        found_ms = _first_token_ms(event.get("edge"))
        reported_ms = reported_ms if found_ms is None else found_ms
    if tokens is None or not with_text_s:
        raise HttpRoundError(f"{url} ended a stream without choices or usage")
    first_s = with_text_s[0]
    if reported_ms is not None:
        first_s = min(first_s, sent_s + reported_ms / 1000)
    return Stream(first_s, with_text_s[-1], tokens)


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
