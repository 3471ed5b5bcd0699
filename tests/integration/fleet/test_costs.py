"""The fleet's cost on both databases and by the API: added once, by label, in steps, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from fleet.db.database import Database, open_database
from fleet.db.tables_telemetry import cost_hours
from fleet.ingest import cost_queries
from fleet.ingest.cost_queries import By, Costs
from fleet.ingest.costs import MAX_GROUPS
from fleet.ingest.decode import Heard, Message, decode
from fleet.ingest.rows import HOUR_S, Keep, age_out, store
from fleet.registry import boxes
from tests.support.fleet import NOW_S
from tests.support.fleet_api import fleet_api
from tests.support.telemetry import batch, budget, cost, cost_line, row

ONE, TWO = "acme~box-1", "acme~box-2"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    for principal in (ONE, TWO):
        opened.write_now(lambda c, name=principal: boxes.add(c, name, {}, now_s=NOW_S))  # type: ignore[misc]
    yield opened
    opened.close()


def take(database: Database, *messages: Message) -> None:
    heard = [one for one in map(decode, messages) if isinstance(one, Heard)]
    assert len(heard) == len(messages)
    database.write_now(lambda c: store(c, heard, now_s=NOW_S))


def told(seq: int, report: Any, *, at_s: float = NOW_S, boxes_name: str = ONE) -> Message:
    one = row(seq, cost=report, clock_s=int(at_s))
    return batch(boxes_name, one, clock_s=int(at_s), received_s=at_s)


def ask(database: Database, by: By, hours: float = 24) -> Costs:
    since_s = NOW_S - hours * HOUR_S
    return database.read_now(lambda c: cost_queries.costs(c, by, since_s=since_s, until_s=NOW_S))


def test_cost_is_added_once_and_read_by_each_label(database: Database) -> None:
    lines = (
        cost_line(),
        cost_line(tier="cache", saved_nano=5_000_000, energy_uj=0, energy_nano=0, resolved=10),
        cost_line("talk", "bank", "frontier", frontier_nano=1_000_000_000, resolved=2),
        cost_line("", "default", "idle", requests=0, answered=0, tasks=0, resolved=0),
    )
    message = told(1, cost(*lines, budgets=[budget("tenant:bank", 1), budget("purpose:x", 1)]))
    take(database, message)
    take(database, message, told(1, cost(cost_line()), boxes_name=TWO))
    whole = ask(database, By.TOTAL).items[0]
    assert (whole.requests, whole.resolved, whole.money) == (40, 28, pytest.approx(1.008))
    assert whole.joules == pytest.approx(16.0)
    assert whole.money_per_resolved == pytest.approx(1.008 / 28)
    assert whole.joules_per_resolved == pytest.approx(16 / 28)
    assert whole.tokens_per_request == pytest.approx(5 * 1000 / 40)
    assert (whole.cache_share, whole.escalation_share) == (0.25, 0.25)
    assert whole.saved == pytest.approx(0.005)
    by_endpoint = {one.label: one for one in ask(database, By.ENDPOINT).items}
    assert list(by_endpoint) == ["talk", "intent", "(idle)"]  # the dearest first
    assert by_endpoint["intent"].cache_share == pytest.approx(10 / 30)
    assert by_endpoint["talk"].escalation_share == 1.0
    assert by_endpoint["(idle)"].money_per_request is None
    owners = {one.label: one.requests for one in ask(database, By.OWNER).items}
    assert owners == {"shop": 30, "bank": 10, "(idle)": 0}
    budgets = ask(database, By.BUDGET).items
    assert [(one.label, one.requests, one.frontier) for one in budgets] == [("tenant:bank", 10, 1)]
    assert {one.label for one in ask(database, By.TIER).items} == {
        "local", "cache", "frontier", "idle",
    }  # fmt: skip


def test_currencies_are_not_added_to_each_other(database: Database) -> None:
    take(database, told(1, cost(cost_line())), told(2, cost(cost_line(), currency="USD")))
    items = ask(database, By.TOTAL).items
    assert {(one.currency, one.requests) for one in items} == {("EUR", 10), ("USD", 10)}


def test_steps_are_hours_and_days_where_the_time_is_long(database: Database) -> None:
    for number, hours in enumerate((0, 1, 30, 24 * 20), 1):
        take(database, told(number, cost(cost_line()), at_s=NOW_S - hours * HOUR_S))
    short, long = ask(database, By.OWNER, 24), ask(database, By.OWNER, 24 * 30)
    assert (short.step_s, [step.requests for step in short.steps]) == (HOUR_S, [10, 10])
    assert long.step_s == 24 * HOUR_S
    assert all(step.at_s % long.step_s == 0 for step in long.steps)
    assert sum(step.requests for step in long.steps) == 40
    database.write_now(lambda c: age_out(c, Keep(1, 1, 25 * HOUR_S), now_s=NOW_S))
    assert sum(step.requests for step in ask(database, By.OWNER, 24 * 30).steps) == 20


def test_a_bill_that_came_lower_is_taken_back(database: Database) -> None:
    take(database, told(1, cost(cost_line(frontier_nano=9_000_000_000))))
    correction = cost_line(
        requests=0, answered=0, tasks=0, resolved=-1, tokens_in=0, tokens_out=0, energy_nano=0,
        energy_uj=0, frontier_nano=-8_000_000_000,
    )  # fmt: skip
    take(database, told(2, cost(correction)))
    item = ask(database, By.ENDPOINT).items[0]
    assert (item.frontier, item.resolved) == (pytest.approx(1.0), 7)


def test_names_that_a_box_makes_up_do_not_grow_the_database(database: Database) -> None:
    for seq in range(1, 14):
        lines = [cost_line(f"made-up-{seq}-{number}") for number in range(60)]
        take(database, told(seq, cost(*lines)))
    count = select(func.count()).select_from(cost_hours)
    assert database.read_now(lambda c: c.execute(count).scalar_one()) <= MAX_GROUPS + 1
    found = ask(database, By.ENDPOINT)
    assert len(found.items) <= cost_queries.MAX_LABELS + 1
    assert sum(one.requests for one in found.items) == 13 * 60 * 10
    assert "(other)" in {one.label for one in found.items}


def test_the_newest_row_says_how_full_budgets_are(database: Database) -> None:
    late, early = [budget("box", 900), budget("tenant:shop", 0)], [budget("box", 100)]
    yesterday = budget("box", 500, window="2020-01-01")
    take(database, told(2, cost(budgets=late)))
    take(database, told(1, cost(budgets=early), at_s=NOW_S - 600))
    take(database, told(1, cost(budgets=[yesterday]), boxes_name=TWO))
    found = database.read_now(lambda c: cost_queries.budgets(c, now_s=NOW_S))
    assert [one.scope for one in found] == ["box", "tenant:shop"]
    box = found[0]
    assert (box.boxes, box.late, box.nearly, box.full) == (1, 1, 1, 0)
    assert (box.limit, box.spent, box.fullest) == (1000.0, 900.0, ONE)
    take(database, told(3, cost(), at_s=NOW_S + 1))  # its settings name no budgets any more
    assert {one.scope for one in database.read_now(
        lambda c: cost_queries.budgets(c, now_s=NOW_S)
    )} == {"box"}  # fmt: skip


async def test_the_api_says_so_to_who_may_read(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api:
        await api.services.database.write(lambda c: boxes.add(c, ONE, {}, now_s=NOW_S))
        heard = decode(told(1, cost(cost_line(), budgets=[budget("box", 999)])))
        assert isinstance(heard, Heard)
        await api.services.database.write(lambda c: store(c, [heard], now_s=NOW_S))
        status, answer = await api.ask("GET", "/v1/cost?hours=2&by=owner", role="viewer")
        assert (status, answer["items"][0]["label"]) == (200, "shop")
        status, answer = await api.ask("GET", "/v1/budgets", role="viewer")
        assert (status, answer["items"][0]["fullest"]) == (200, ONE)
        assert (await api.ask("GET", "/v1/cost", role=None))[0] == 401
        for query in ("hours=0", "hours=99999", "by=box", "by=endpoint&by=owner", "since=1"):
            status, answer = await api.ask("GET", f"/v1/cost?{query}", role="viewer")
            assert status == 400, (query, answer)
