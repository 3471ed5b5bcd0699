"""Cost of boxes as sums of the fleet: under which budgets work falls, and what made-up names do."""

from __future__ import annotations

from collections import Counter

import pytest

from edge_runtime.agent.protocol import OTHER, BudgetState, CostLine, CostReport
from fleet.ingest.costs import CostKey, falls_under, spent_of, within

LINE = CostLine(endpoint="intent", owner="shop", tier="local", requests=1)
IDLE = CostLine(endpoint="", owner="default", tier="idle", energy_uj=5)


@pytest.mark.parametrize(
    ("scope", "line", "falls"),
    [
        ("box", LINE, True),
        ("box", IDLE, True),
        ("tenant:shop", LINE, True),
        ("tenant:default", IDLE, False),
        ("endpoint:intent", LINE, True),
        ("endpoint:talk", LINE, False),
        ("endpoint:", IDLE, False),
        ("purpose:audit", LINE, False),
        ("intent", LINE, False),
    ],
)
def test_what_falls_under_a_budget(scope: str, line: CostLine, falls: bool) -> None:
    assert falls_under(line, scope) is falls


def test_a_report_adds_to_all_work_and_to_each_budget_once() -> None:
    budgets = tuple(
        BudgetState(scope="box", period=period, window="2026-11", limit_nano=1, spent_nano=0,
                    held_nano=0)
        for period in ("day", "month")
    )  # fmt: skip
    report = CostReport(currency="EUR", lines=(LINE, IDLE), budgets=budgets)
    keys = [key for key, _ in spent_of(report, 3600)]
    assert [(key.scope, key.endpoint, key.tier) for key in keys] == [
        ("", "intent", "local"), ("box", "", "local"), ("", "", "idle"), ("box", "", "idle"),
    ]  # fmt: skip


def key_of(number: int, scope: str = "") -> CostKey:
    return CostKey(0, "EUR", scope, "" if scope else f"e{number:03d}", "shop", "local")


def test_made_up_names_are_summed_up_beyond_the_bound() -> None:
    spent = {key_of(number): Counter(requests=1, frontier_nano=-2) for number in range(10)}
    spent |= {key_of(0, f"box{number}"): Counter(requests=1) for number in range(5)}
    bounded = within(spent, [key_of(9), key_of(77)], room=6)
    assert key_of(9) in bounded  # known before: it goes on
    assert len(bounded) <= 1 + 6 + 2
    rest = bounded[CostKey(0, "EUR", "", OTHER, OTHER, "local")]
    assert rest["frontier_nano"] == -2 * rest["requests"]
    assert sum(sums["requests"] for key, sums in bounded.items() if not key.scope) == 10
    assert sum(sums["requests"] for key, sums in bounded.items() if key.scope) == 5
