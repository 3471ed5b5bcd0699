"""From the ledger of a box to the broker: what was booked arrives once, over two boots."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.agent.costs import Costs
from edge_runtime.agent.protocol import Channel, decode_batch, parse_topic
from edge_runtime.agent.spool import Spool
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.rows import Attempt, Tier
from tests.support.agents import Rig, rig, until

NOW = 1_795_348_800_000_000


def told(box: Rig) -> int:
    """Requests in all rows that reached the broker, each row once."""
    rows = {}
    for sent in box.broker.sent:
        if parse_topic(sent.topic).channel is Channel.TELEMETRY:
            header, found = decode_batch(sent.payload)
            rows.update({(header.boot, row.seq): row for row in found})
    return sum(
        line.requests for row in rows.values() if row.cost is not None for line in row.cost.lines
    )


async def test_what_was_booked_arrives_once_over_two_boots(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger.open(path) as ledger:

        def book(count: int) -> None:
            for number in range(count):
                attempt = Attempt(
                    at_us=NOW, request_id=f"r{number}", task_id="", tier=Tier.LOCAL, model="m",
                    endpoint="intent", tenant="shop",
                )  # fmt: skip
                ledger.append(attempt).result()

        async with rig(tmp_path) as box:
            for booked, goal in ((3, 3), (5, 3 + 2 + 5)):
                # The rig opens the same file again when the agent runs.
                with Spool.open(tmp_path / "spool.sqlite", 1 << 20) as spool:
                    costs = Costs.begin(path, "EUR", (), lambda: NOW, spool.marks())
                send = {"costs": costs, "interval_s": 0.05, "send_s": 0.05}
                async with box.running(send=send):
                    book(booked)
                    await until(lambda goal=goal: told(box) >= goal)  # type: ignore[misc]
                book(2)  # while the agent is away: the next boot tells of it
                assert told(box) == goal
