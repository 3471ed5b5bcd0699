"""How long a daemon takes to embed one question: idle, and beside streams of a decoder.

Questions are embedded one after the other through HTTP, each timed by itself, in two rounds: with
nothing else to do, and while `streams` answers are decoded without end by the same daemon. Of the
time, HTTP is about a millisecond; the semantic cache asks the encoder without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.cache_runs import summary
from benchmarks.http_client import RequestError
from benchmarks.http_round import completion_body
from benchmarks.machine import describe_machine

ANSWER_TOKENS = 64
PROMPT_TOKENS = 32
VOCAB = 30_000
WARM_UP = 20


def read_questions(path: Path, count: int) -> list[str]:
    """Texts of a file: one a line, or JSON lines with a `text`; again from the start if few."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    texts = [json.loads(line)["text"] if line.startswith("{") else line for line in lines]
    random.Random(1).shuffle(texts)
    return [texts[at % len(texts)] for at in range(count)]


async def rounds(
    url: str, encoder: str, decoder: str | None, questions: Sequence[str], streams: int
) -> dict[str, object]:
    """Figures of the round that is idle and, with a decoder, of the one beside it."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        await _embed_all(session, encoder, questions[:WARM_UP])
        figures: dict[str, object] = {
            "questions": len(questions),
            "idle_ms": summary(await _embed_all(session, encoder, questions)),
        }
        if decoder is not None:
            async with _decoding(session, decoder, streams) as pieces:
                start, before = time.perf_counter(), pieces.came
                times = await _embed_all(session, encoder, questions)
                rate = (pieces.came - before) / (time.perf_counter() - start)
            figures |= {
                "streams": streams,
                "pieces_per_s": round(rate, 1),
                "beside_decoding_ms": summary(times),
            }
    return figures | {"machine": describe_machine()}


async def _embed_all(
    session: aiohttp.ClientSession, encoder: str, questions: Sequence[str]
) -> list[float]:
    """Milliseconds of each."""
    times = []
    for question in questions:
        start = time.perf_counter()
        async with session.post(
            "/v1/embeddings", json={"model": encoder, "input": question}
        ) as got:
            await _checked(got)
            await got.read()
        times.append((time.perf_counter() - start) * 1e3)
    return times


@dataclass
class _Pieces:
    """How many pieces of streams came so far."""

    came: int = 0


@contextlib.asynccontextmanager
async def _decoding(
    session: aiohttp.ClientSession, decoder: str, streams: int
) -> AsyncIterator[_Pieces]:
    """Keep so many streams going from before the block to its end."""
    pieces = _Pieces()
    running = [asyncio.create_task(_stream(session, decoder, at, pieces)) for at in range(streams)]
    try:
        while pieces.came < 4 * streams:
            await asyncio.sleep(0.05)
            for one in running:
                if one.done():
                    one.result()
        yield pieces
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _stream(session: aiohttp.ClientSession, decoder: str, seed: int, pieces: _Pieces) -> None:
    rng = random.Random(seed)
    while True:
        prompt = [rng.randrange(100, VOCAB) for _ in range(PROMPT_TOKENS)]
        body: dict[str, Any] = completion_body(decoder, prompt, ANSWER_TOKENS)
        async with session.post("/v1/completions", json=body) as response:
            await _checked(response)
            async for line in response.content:
                pieces.came += line.startswith(b"data:")


async def _checked(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise RequestError(f"{response.url} answered {response.status}: {await response.text()}")
