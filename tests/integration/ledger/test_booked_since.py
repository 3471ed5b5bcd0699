"""Increments of the ledger: stretches of any length add up to what the whole says."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from edge_runtime.ledger.database import open_reader
from edge_runtime.ledger.energy.account import worst_source
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.queries import By, lines
from edge_runtime.ledger.rows import Attempt, JouleSource, MoneySource, Outcome, Tier, idle_row
from edge_runtime.ledger.since import Booked, Group, Mark, booked_since, last_booked

NOW = 1_795_348_800_000_000
SOURCE = worst_source([JouleSource.MODEL])


def attempt(number: int, task: str, tier: Tier, **changes: object) -> Attempt:
    values: dict[str, object] = {
        "at_us": NOW,
        "request_id": f"r{number}",
        "task_id": task,
        "tier": tier,
        "model": "m",
        "endpoint": "intent",
        "tenant": "shop",
        "tokens_in": 10,
        "tokens_out": 2,
        "energy_uj": 5,
        "energy_source": SOURCE,
        "energy_nano": 7,
        "answered": True,
    }
    if tier is Tier.FRONTIER:
        values |= {"frontier_nano": 1000, "money_source": MoneySource.USAGE}
    return Attempt(**{**values, **changes})  # type: ignore[arg-type]


def read(path: Path, mark: Mark, limit: int = 1000) -> tuple[Mark, dict[Group, Booked]]:
    with open_reader(path) as reader:
        return booked_since(reader, mark, limit=limit)


def test_a_task_moves_to_where_its_last_attempt_lies(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    local, away = Group("intent", "shop", "local"), Group("intent", "shop", "frontier")
    with Ledger.open(path) as ledger:
        ledger.append(attempt(1, "t", Tier.LOCAL)).result()
        ledger.outcome(Outcome(at_us=NOW, tenant="shop", task_id="t", resolved=True)).result()
        mark, first = read(path, Mark())
        assert (first[local].tasks, first[local].resolved) == (1, 1)
        assert read(path, mark) == (mark, {})
        ledger.append(attempt(2, "t", Tier.FRONTIER)).result()
        mark, second = read(path, mark)
        assert (second[local].tasks, second[local].resolved) == (-1, -1)
        assert (second[away].tasks, second[away].resolved) == (1, 1)
        assert second[away].cost_nano == 1007
        ledger.outcome(Outcome(at_us=NOW, tenant="shop", task_id="t", resolved=False)).result()
        _, third = read(path, mark)
        assert third == {away: Booked(resolved=-1)}


def test_idle_energy_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger.open(path) as ledger:
        row = idle_row(at_us=NOW, wall_us=1, energy_uj=9, energy_source=SOURCE, energy_nano=4)
        ledger.append(row).result()
        assert read(path, Mark())[1] == {
            Group("", "default", "idle"): Booked(energy_uj=9, energy_nano=4)
        }


@pytest.mark.parametrize("seed", range(4))
def test_stretches_add_up_to_the_ledgers_own_sums(tmp_path: Path, seed: int) -> None:
    draw, path, total = random.Random(seed), tmp_path / "ledger.db", Counter[str]()
    mark = Mark()
    with Ledger.open(path) as ledger:
        for number in range(60):
            task = f"t{draw.randrange(12)}"
            if draw.random() < 0.6:
                tier = draw.choice(list(Tier))
                again = draw.randrange(2)
                ledger.append(
                    attempt(number, task, tier, attempt=again, endpoint=draw.choice("ab"))
                ).result()
            else:
                outcome = Outcome(
                    at_us=NOW, tenant="shop", task_id=task, resolved=draw.random() < 0.5,
                    explicit=draw.random() < 0.5,
                )  # fmt: skip
                ledger.outcome(outcome).result()
            if draw.random() < 0.2:
                mark = add_all(path, mark, total, limit=draw.choice((3, 1000)))
        while True:
            before, mark = mark, add_all(path, mark, total, limit=5)
            if before == mark:
                break
        with open_reader(path) as reader:
            assert mark == last_booked(reader)
            whole = lines(reader, By.ENDPOINT)
    for name, line in whole.items():
        for field in ("requests", "answered", "tasks", "resolved", "tokens_in", "energy_uj"):
            assert total[f"{name}.{field}"] == getattr(line, field), (name, field)
        assert total[f"{name}.cost_nano"] == line.cost_nano


def add_all(path: Path, mark: Mark, total: Counter[str], limit: int) -> Mark:
    mark, found = read(path, mark, limit)
    for group, sums in found.items():
        for field in ("requests", "answered", "tasks", "resolved", "tokens_in", "energy_uj",
                      "cost_nano"):  # fmt: skip
            total[f"{group.endpoint}.{field}"] += getattr(sums, field)
    return mark
