"""Steady requests to a server that fails in every way."""

from __future__ import annotations

import asyncio
import itertools

from aiohttp import web
from aiohttp.test_utils import TestServer

from fleet.demo_traffic import Tally, Traffic


async def asked(wanted: int, *kinds: str) -> Tally:
    """The tally after `wanted` requests; the server answers by `kinds`, one after another."""
    turns = itertools.cycle(kinds)

    async def answer(request: web.Request) -> web.Response:
        kind = next(turns)
        if kind == "broken":
            assert request.transport is not None
            request.transport.abort()
        status = 503 if kind == "busy" else 200
        return web.json_response({}, status=status, headers={"x-edge-answered-by": "tiny@1"})

    app = web.Application()
    app.router.add_post("/ask", answer)
    async with TestServer(app) as server, asyncio.timeout(20):
        traffic = Traffic(str(server.make_url("/")).rstrip("/"), "/ask", ({"a": 1},), 0.001)
        running = asyncio.create_task(traffic.run())
        while traffic.tally.requests < wanted:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0)
        tally = traffic.cut()
        assert traffic.tally.requests == 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return tally


async def test_answers_are_counted_by_who_gave_them() -> None:
    tally = await asked(5, "right")
    assert (tally.failed, tally.answered_by["tiny@1"]) == (0, tally.requests)
    assert tally.slowest_s > 0


async def test_a_status_and_a_broken_connection_are_failures() -> None:
    tally = await asked(6, "right", "busy", "broken")
    assert 0 < tally.failed < tally.requests
    assert any(text.startswith("503: ") for text in tally.failures)
    assert any(text.startswith("ServerDisconnectedError") for text in tally.failures)
