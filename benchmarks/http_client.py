"""A bounded number of JSON requests at a time against a server on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp

REQUEST_TIMEOUT_S = 600.0


class RequestError(RuntimeError):
    """The server refused a request; the message holds its answer."""


async def post_all(
    url: str, bodies: Sequence[dict[str, Any]], *, concurrency: int
) -> list[dict[str, Any]]:
    """POST every body to `url`, at most `concurrency` at a time; answers in the order of bodies.

    Raises `RequestError` at the first answer that is not 200.
    """
    gate = asyncio.Semaphore(concurrency)
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

        async def one(body: dict[str, Any]) -> dict[str, Any]:
            async with gate, session.post(url, json=body) as response:
                if response.status != 200:
                    raise RequestError(f"{url} answered {response.status}: {await response.text()}")
                answer: dict[str, Any] = await response.json()
                return answer

        return list(await asyncio.gather(*(one(body) for body in bodies)))
