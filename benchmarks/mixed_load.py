"""Classification requests at a steady rate, and what came of them beside the truth."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

from edge_runtime.stats.clopper_pearson import upper_bound
from export_tools.certify.traffic import Example

OUT_OF_SCOPE = "oos"
REQUEST_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `label` is None for a refusal; `cost_nano` is what the daemon said it cost."""

    example: Example
    status: int
    label: str | None
    tier: str
    reason: str
    degraded: bool
    seconds: float

    @property
    def right(self) -> bool:
        """Whether the label is the true one; an input out of scope wants to be called so."""
        return self.label == (self.example.label or OUT_OF_SCOPE)


async def play(
    url: str, model: str, examples: Sequence[Example], *, rate: float
) -> tuple[list[Reply], float]:
    """Send one request every 1 / `rate` seconds, whatever the answers do; replies and seconds.

    Latency counts from when a request was due: a server that falls behind cannot hide it.
    """
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        begin = time.perf_counter()

        async def one(number: int, example: Example) -> Reply:
            due = begin + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            body = {"model": model, "input": example.text, "top_k": 1}
            async with session.post(f"{url}/v1/classify", json=body) as response:
                answer = await response.json()
                return _reply(example, response, answer, time.perf_counter() - due)

        tasks = [asyncio.create_task(one(*item)) for item in enumerate(examples)]
        replies = list(await asyncio.gather(*tasks))
        return replies, time.perf_counter() - begin


def _reply(
    example: Example, response: aiohttp.ClientResponse, answer: dict[str, Any], seconds: float
) -> Reply:
    return Reply(
        example,
        response.status,
        answer["data"][0]["label"] if response.status == 200 else None,
        response.headers.get("x-edge-tier", ""),
        response.headers.get("x-edge-reason", ""),
        response.headers.get("x-edge-degraded") == "true",
        seconds,
    )


@dataclass(frozen=True, slots=True)
class Tally:
    """Figures of one run. Shares are of all requests, errors of the answers named; seconds."""

    requests: int
    refused: int
    kept: int
    kept_wrong: int
    degraded: int
    wrong: int
    reasons: dict[str, int]
    p50_s: float
    p99_s: float
    local_p50_s: float
    local_p99_s: float

    @property
    def kept_error_bound(self) -> float:
        """Upper 95 % bound of the error among the kept."""
        return upper_bound(self.kept_wrong, self.kept, 0.05) if self.kept else 0.0


def tally(replies: Sequence[Reply]) -> Tally:
    """Count. *kept*: answered here on the strength of a certificate or its cached answer."""
    answered = [one for one in replies if one.status == 200]
    kept = [one for one in answered if one.tier in ("local", "cache") and not one.degraded]
    times = np.array([one.seconds for one in answered] or [0.0])
    local = np.array([one.seconds for one in kept] or [0.0])
    return Tally(
        requests=len(replies),
        refused=len(replies) - len(answered),
        kept=len(kept),
        kept_wrong=sum(not one.right for one in kept),
        degraded=sum(one.degraded for one in answered),
        wrong=sum(not one.right for one in answered),
        reasons=dict(Counter(one.reason for one in replies).most_common()),
        p50_s=float(np.quantile(times, 0.5)),
        p99_s=float(np.quantile(times, 0.99)),
        local_p50_s=float(np.quantile(local, 0.5)),
        local_p99_s=float(np.quantile(local, 0.99)),
    )
