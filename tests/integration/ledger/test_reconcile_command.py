"""`edge-runtime cost reconcile`: a frontier's statement settles what was guessed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_runtime.cli import app
from edge_runtime.ledger.budget import Period, Usage, window_of
from edge_runtime.ledger.database import open_reader
from edge_runtime.ledger.ledger import Ledger, now_us
from edge_runtime.ledger.queries import By, lines
from edge_runtime.ledger.reconcile_sql import SURELY_OVER_US
from edge_runtime.ledger.rollup import Retention
from edge_runtime.ledger.rows import US_PER_DAY, Attempt, Correction, MoneySource, Tier

PRICES = """
schema = 1
version = "2026-11"
as_of = 2026-11-01
currency = "USD"
[frontier.big]
input = 2
cached_input = 1
output = 4
"""


def row(number: int, source: MoneySource, nano: int, at_us: int) -> Attempt:
    return Attempt(
        at_us=at_us,
        request_id=f"r{number}",
        task_id="",
        tier=Tier.FRONTIER,
        model="big",
        tokens_in=100,
        tokens_out=100,
        frontier_nano=nano,
        money_source=source,
        call_id=f"call-{number}",
        remote_id=f"gen-{number}",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two calls with their bill, three guesses, and one that a dead process left behind."""
    (tmp_path / "prices.toml").write_text(PRICES)
    path, now = tmp_path / "ledger.db", now_us()
    with Ledger.open(path, clock=lambda: now) as ledger:
        for number, source in enumerate([MoneySource.USAGE] * 2 + [MoneySource.WORST_CASE] * 3):
            ledger.reserve(f"call-{number}", worst_nano=1000).result()
            nano = 500 if source is MoneySource.USAGE else 1000
            ledger.settle(f"call-{number}", row(number, source, nano, now)).result()
    long_ago = now - SURELY_OVER_US - 1
    with Ledger.open(path, clock=lambda: long_ago) as ledger:
        ledger.reserve("lost", worst_nano=700, scopes=("box", "tenant:shop")).result()
    return path


def run(path: Path, statement: list[dict[str, Any]], *more: str, status: int = 0) -> dict[str, Any]:
    file = path.parent / "statement.json"
    file.write_text(json.dumps(statement))
    given = ["cost", "reconcile", str(file), "--ledger", str(path), "--json", *more]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == status, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def total(path: Path) -> int:
    with open_reader(path) as reader:
        return lines(reader, By.TOTAL)[""].frontier_nano


STATEMENT = [
    {"id": "gen-0", "total_cost": 0.0000005},
    {"id": "gen-1", "total_cost": 0.0000005},
    {"client_request_id": "call-2", "total_cost": 0.0000003},
    {"id": "gen-3", "total_cost": 0},
    {"client_request_id": "lost", "prompt_tokens": 10, "completion_tokens": 5},
]


def test_guesses_become_what_was_charged(path: Path) -> None:
    assert total(path) == 4000
    prices = ("--prices", str(path.parent / "prices.toml"), "--frontier", "big")
    would = run(path, STATEMENT, *prices, "--dry-run")
    assert (would["agreed"], would["settled"], would["missing"]) == (2, 3, ["call-4"])
    assert total(path) == 4000
    assert run(path, STATEMENT, *prices)["settled"] == 3
    assert total(path) == 500 + 500 + 300 + 0 + (10 * 2000 + 5 * 4000) + 1000
    again = run(path, STATEMENT, *prices)
    assert (again["agreed"], again["settled"], again["missing"]) == (5, 0, ["call-4"])
    with open_reader(path) as reader:
        (left,) = reader.execute("SELECT * FROM booked WHERE call_id = 'lost'").fetchall()
        assert (left["tenant"], left["model"], left["money_source"]) == ("shop", "big", "usage")
    with Ledger.open(path) as ledger:
        windows = [window_of("box", Period.MONTH, at) for at in (now_us(), now_us() - US_PER_DAY)]
        used = ledger.usage(windows).result()
        assert sum(one.spent_nano for one in used.values()) == total(path)
        assert all(one == Usage(one.spent_nano, 0) for one in used.values())


def test_what_does_not_match_is_listed_and_left_alone(path: Path) -> None:
    statement = [
        {"id": "gen-0", "total_cost": 0.0000004},
        {"id": "gen-9", "total_cost": 1},
        {"id": "gen-2", "total_cost": 0.1},
        {"id": "call-2", "total_cost": 0.1},
    ]
    found = run(path, statement, status=1)
    assert found["differing"] == [
        {"call_id": "call-0", "model": "big", "nano": 500, "statement": 400}
    ]
    assert (found["unknown"], found["twice"], found["settled"]) == (["gen-9"], ["call-2"], 0)
    assert total(path) == 4000


def test_a_statement_in_csv_and_its_report_for_people(path: Path) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows([["Generation ID", "Price"], ["gen-2", "0.0000001"], ["gen-77", "1"]])
    file = path.parent / "statement.csv"
    file.write_text(out.getvalue())
    given = ["cost", "reconcile", str(file), "--ledger", str(path), "--column", "Price=cost"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 1
    assert "1 guesses were settled" in result.output
    assert "1 in the statement, not in the ledger:\n  gen-77" in result.output
    assert total(path) == 3100
    file.write_text("nothing\n1\n")
    refused = CliRunner().invoke(app, given)
    assert refused.exit_code == 1
    assert "neither money" in refused.output


def test_a_correction_goes_into_the_sums_of_old_days_and_comes_too_late_after(
    tmp_path: Path,
) -> None:
    path, now = tmp_path / "old.db", now_us()
    keep = Retention(detail_days=1)
    with Ledger.open(path, retention=keep, clock=lambda: now) as ledger:
        for number in range(2):
            old = row(number, MoneySource.WORST_CASE, 1000, now - 3 * US_PER_DAY)
            ledger.append(old).result()
        first = Correction(
            call_id="call-0", at_us=now, frontier_nano=40, money_source=MoneySource.STATEMENT
        )
        ledger.correct(first).result()
        with pytest.raises(ValueError, match="no open attempt"):
            ledger.correct(first).result()
        assert ledger.maintain().result() == 2
        assert total(path) == 1040
        late = Correction(
            call_id="call-1", at_us=now, frontier_nano=40, money_source=MoneySource.STATEMENT
        )
        with pytest.raises(ValueError, match="no open attempt"):
            ledger.correct(late).result()
    assert total(path) == 1040
