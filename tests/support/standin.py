"""A pool that asks a frontier which meters itself, and how tests talk to the two."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from benchmarks.frontier_answers import Behaviour, Oracle
from benchmarks.frontier_standin import StandIn
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.prices import Prices, parse_prices
from edge_runtime.router.contract import FrontierReply
from edge_runtime.router.frontier.memory import NOW_US
from edge_runtime.router.frontier.pool import FrontierPool
from edge_runtime.router.frontier.settings import FrontierSettings
from tests.support.frontier import FakeTime, a_call

PRICES: Prices = parse_prices(
    {
        "schema": 1,
        "version": "test",
        "as_of": "2026-11-22",
        "currency": "USD",
        "frontier": {"big": {"input": "2.50", "cached_input": "0.25", "output": 10}},
    }
)


def settings(url: str, **changes: Any) -> FrontierSettings:
    values = {"base_url": url, "model": "big", "training_allowed": False}
    return FrontierSettings.model_validate(values | changes)


@contextlib.asynccontextmanager
async def frontier(
    table: Mapping[str, str], ledger: Any = None, *, time: FakeTime | None = None, **given: Any
) -> AsyncIterator[tuple[StandIn, FrontierPool, Any]]:
    """A stand-in and a pool that asks it; `given` are behaviours, and settings of the pool.

    With `asks` set to `id` or `call` the pool asks it for bills that did not come, by that id.
    """
    asks = given.pop("asks", None)
    behaviour = {key: given.pop(key) for key in list(given) if key in Behaviour.__slots__}
    stand_in = StandIn(Oracle(table), Behaviour(**behaviour))
    ledger = MemoryLedger(lambda: NOW_US) if ledger is None else ledger
    async with stand_in.serving() as url:
        if asks:
            given["usage_url"] = f"{url}/generation?id={{{asks}}}"
        pool = FrontierPool(
            {"big": settings(url, **given)},
            PRICES,
            ledger,
            timing=(time or FakeTime()).timing,
            wall_us=lambda: NOW_US,
        )
        async with pool:
            yield stand_in, pool, ledger


async def streamed(pool: FrontierPool, text: str) -> tuple[str, FrontierReply]:
    parts: list[str] = []
    async for chunk in pool.stream(a_call(text)):
        choices = chunk.data.get("choices", ())
        parts += [choice["delta"].get("content") or "" for choice in choices]
        if chunk.reply is not None:
            return "".join(parts), chunk.reply
    raise AssertionError("a stream ended without its bill")
