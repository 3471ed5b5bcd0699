"""Budgets hold for calls in parallel and through a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_runtime.ledger.budget import Limit, Period, Refused, window_of
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.router.contract import FrontierError, FrontierReply, FrontierWhy
from edge_runtime.router.frontier.memory import NOW_US, MemoryFrontiers, says
from tests.support.frontier import a_call
from tests.support.standin import frontier

CHILD = """
import asyncio, sys
from pathlib import Path
from edge_runtime.ledger.budget import Limit, Period
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.router.frontier.memory import NOW_US, MemoryFrontiers, Scripted, Stall
from tests.support.frontier import a_call

async def main(path, limit_nano):
    limits = [Limit("box", Period.DAY, limit_nano)]
    with Ledger.open(path, limits=limits, clock=lambda: NOW_US) as ledger:
        frontiers = MemoryFrontiers(lambda _body: Scripted(before=Stall()), ledger=ledger)
        calls = [asyncio.create_task(frontiers.complete(a_call())) for _ in range(50)]
        while sum(not one.done() for one in calls) > frontiers.transport.open_now:
            await asyncio.sleep(0)
        print(frontiers.transport.open_now, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def test_a_kill_in_the_middle_of_calls_forgets_no_money(tmp_path: Path) -> None:
    probe = MemoryFrontiers(lambda _body: says("x"))
    asyncio.run(probe.complete(a_call()))
    assert isinstance(probe.ledger, MemoryLedger)
    (worst,) = [one.worst_nano for one in probe.ledger._made.values()]
    path, limit_nano = tmp_path / "ledger.db", 10 * worst
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(limit_nano)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        # Log lines come first: refusals are told there.
        sent = next(line for line in child.stdout if line.strip().isdecimal())
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    assert int(sent) == 10
    limits = [Limit("box", Period.DAY, limit_nano)]
    with Ledger.open(path, limits=limits, clock=lambda: NOW_US) as ledger:
        window = window_of("box", Period.DAY, NOW_US)
        assert ledger.usage([window]).result()[window].held_nano == limit_nano
        frontiers = MemoryFrontiers(lambda _body: says("x"), ledger=ledger)
        with pytest.raises(FrontierError, match="budget of box"):
            asyncio.run(frontiers.complete(a_call()))
        assert frontiers.transport.requests == []


async def test_fifty_at_once_never_pass_a_budget_for_ten(
    table: Mapping[str, str], tmp_path: Path
) -> None:
    text = next(iter(table))
    probe = MemoryLedger(lambda: NOW_US)
    async with frontier(table, probe) as (_, pool, _):
        await pool.complete(a_call(text))
    (worst,) = [one.worst_nano for one in probe._made.values()]
    limit = Limit("box", Period.DAY, 10 * worst)
    path = tmp_path / "ledger.db"

    def opened() -> Ledger:
        return Ledger.open(path, limits=[limit], clock=lambda: NOW_US)

    window = window_of("box", Period.DAY, NOW_US)
    with opened() as ledger:
        async with frontier(table, ledger, token_s=0.01) as (stand_in, pool, _):
            results = await asyncio.gather(
                *(pool.complete(a_call(text)) for _ in range(50)), return_exceptions=True
            )
        refused = [one for one in results if isinstance(one, FrontierError)]
        answered = [one for one in results if isinstance(one, FrontierReply)]
        assert stand_in.most_active <= 10
        assert len(refused) + len(answered) == 50
        assert {one.why for one in refused} == {FrontierWhy.BUDGET}
        assert all((one.retry_after_s or 0) > 0 for one in refused)
        used = ledger.usage([window]).result()[window]
        assert used.held_nano == 0
        assert used.spent_nano == stand_in.meter.nano <= limit.limit_nano
        # The daemon dies in the middle of four calls: their money stays held.
        for number in range(4):
            held = ledger.reserve(f"lost-{number}", worst_nano=worst).result()
            assert not isinstance(held, Refused)
    with opened() as ledger:
        before = ledger.usage([window]).result()[window]
        assert before.held_nano == 4 * worst
        async with frontier(table, ledger, token_s=0.01) as (stand_in, pool, _):
            for _round in range(3):
                await asyncio.gather(
                    *(pool.complete(a_call(text)) for _ in range(50)), return_exceptions=True
                )
        used = ledger.usage([window]).result()[window]
        assert used.total_nano == before.total_nano + stand_in.meter.nano <= limit.limit_nano
        assert used.held_nano == 4 * worst
        assert 0 < stand_in.most_active <= 6
