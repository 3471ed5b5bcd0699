"""Cost on its way to the fleet: bounded, without text, told once, from a mark that survives."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.agent.costs import Costs, budgets_of, lines_of
from edge_runtime.agent.protocol import OTHER, CostReport, TelemetryRow
from edge_runtime.agent.spool import Spool
from edge_runtime.errors import BundleError
from edge_runtime.ledger.budget import Limit, Period, Usage, Window
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.rows import Attempt, Tier
from edge_runtime.ledger.since import Booked, Group

NOW = 1_795_348_800_000_000  # 2026-11-22 12:00 UTC
LIMIT = Limit("box", Period.DAY, 100)


def test_the_rest_is_summed_up_tier_by_tier() -> None:
    found = {
        Group(f"e{number}", "shop", tier): Booked(requests=1, frontier_nano=number)
        for number in range(6)
        for tier in ("local", "frontier")
    }
    lines = lines_of(found, top=4)
    assert [(one.endpoint, one.tier) for one in lines[:4]] == [
        ("e5", "frontier"), ("e5", "local"), ("e4", "frontier"), ("e4", "local"),
    ]  # fmt: skip
    rest = {one.tier: one for one in lines[4:]}
    assert {(one.endpoint, one.owner) for one in rest.values()} == {(OTHER, OTHER)}
    assert rest["local"].requests == rest["frontier"].requests == 4
    assert sum(one.frontier_nano for one in lines) == sum(
        one.frontier_nano for one in found.values()
    )


def test_names_that_could_carry_text_stay_on_the_box() -> None:
    found = {
        Group("my balance, please", "shop", "local"): Booked(requests=1),
        Group("(other)", "shop", "local"): Booked(requests=2),
    }
    (line,) = lines_of(found)
    assert (line.endpoint, line.owner, line.requests) == (OTHER, "shop", 3)


def test_the_fullest_budgets_are_told() -> None:
    window = Window("box", "2026-11-22")
    windows = {LIMIT: window, Limit("tenant:shop", Period.MONTH, 10): Window("tenant:shop", "x")}
    full, *rest = budgets_of({LIMIT: window}, {window: Usage(30, 20)})
    assert (full.scope, full.spent_nano, full.held_nano, rest) == ("box", 30, 20, [])
    assert budgets_of({LIMIT: window}, {}, top=0) == ()
    with pytest.raises(ValueError, match="window"):
        budgets_of(windows, {})


def row_of(seq: int, report: CostReport | None) -> TelemetryRow:
    return TelemetryRow(seq=seq, uptime_ms=0, length_ms=0, clock_s=5, cost=report)


def test_what_was_booked_is_told_once_also_after_a_crash(tmp_path: Path) -> None:
    path, told = tmp_path / "ledger.db", list[int]()
    with Ledger.open(path) as ledger:

        def book(number: int) -> None:
            ledger.append(
                Attempt(at_us=NOW, request_id=f"r{number}", task_id="", tier=Tier.LOCAL, model="m",
                        answered=True)
            ).result()  # fmt: skip

        def boot(seq: int, crash: bool) -> None:
            with Spool.open(tmp_path / "spool", 1 << 20) as spool:
                costs = Costs.begin(path, "USD", [LIMIT], lambda: NOW, spool.marks())
                book(2 * seq)
                book(2 * seq + 1)
                taken = costs.take()
                assert taken is not None
                assert taken.report is not None
                if crash:
                    return
                told.append(sum(line.requests for line in taken.report.lines))
                spool.add("b", "serve", row_of(seq, taken.report), taken.marks)
                taken.stored()
                again = costs.take()
                assert again is not None
                assert again.report is None  # nothing new, and the budgets stand as they did

        book(0)  # before the box joined: nobody is told
        for seq, crash in ((1, False), (2, True), (3, False)):
            boot(seq, crash)
    assert told == [2, 4]


def test_another_ledger_is_read_from_its_beginning(tmp_path: Path) -> None:
    attempt = Attempt(at_us=NOW, request_id="r", task_id="", tier=Tier.LOCAL, model="m")
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.append(attempt).result()
        marks = {"ledger_attempts": 70, "ledger_outcomes": 0}
        costs = Costs.begin(tmp_path / "ledger.db", "USD", [], lambda: NOW, marks)
        taken = costs.take()
        assert taken is not None
        assert taken.report is not None
        assert taken.report.lines[0].requests == 1


def test_a_ledger_that_is_away_costs_only_the_cost(tmp_path: Path) -> None:
    marks = {"ledger_attempts": 70, "ledger_outcomes": 0}
    assert Costs.begin(tmp_path / "none.db", "USD", [], lambda: NOW, marks).take() is None


def test_rows_without_cost_are_as_they_were() -> None:
    row = row_of(1, None)
    assert b"cost" not in row.to_bytes()
    report = CostReport(currency="EUR", lines=lines_of({Group("e", "o", "idle"): Booked(tasks=-1)}))
    again = TelemetryRow.from_bytes(row_of(1, report).to_bytes())
    assert again.cost == report
    with pytest.raises(BundleError, match="endpoint"):
        TelemetryRow.from_bytes(row_of(1, report).to_bytes().replace(b'"e"', b'"e e"'))
