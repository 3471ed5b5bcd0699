"""`edge-runtime cost` and `edge-runtime breakeven`, on a ledger made by the ledger."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_runtime.cli import app
from edge_runtime.ledger.cost import frontier_cost
from edge_runtime.ledger.database import open_reader
from edge_runtime.ledger.ledger import Ledger, now_us
from edge_runtime.ledger.prices import load_prices
from edge_runtime.ledger.queries import By, lines
from edge_runtime.ledger.report import reconcile
from edge_runtime.ledger.rollup import Retention
from edge_runtime.ledger.rows import (
    US_PER_DAY,
    Attempt,
    JouleSource,
    MoneySource,
    Outcome,
    Purpose,
    Tier,
    idle_row,
    tokens_from_usage,
)

PRICES = """
schema = 1
version = "2026-11"
as_of = 2026-11-01
currency = "USD"
[local]
tariff_per_kwh = 0.30
hardware_price = 900
idle_watts = 5
[frontier.big]
input = 2.50
cached_input = 0.01875
output = 10
"""

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "prices.toml").write_text(PRICES)

    def call(*arguments: str, status: int = 0) -> str:
        given = [*arguments, "--ledger", str(tmp_path / "ledger.db")]
        result = CliRunner().invoke(app, given, env={"COLUMNS": "250"})
        assert result.exit_code == status, result.output
        return result.output

    return call


class MeteringFrontier:
    """Answers with a usage object and keeps its own meter, as a provider does."""

    def __init__(self) -> None:
        self.rng = random.Random(3)
        self.total = [0, 0, 0]

    def usage(self) -> dict[str, Any]:
        prompt = self.rng.randint(50, 5000)
        cached = self.rng.randint(0, prompt)
        answer = self.rng.randint(1, 900)
        for place, count in enumerate((prompt, cached, answer)):
            self.total[place] += count
        return {
            "prompt_tokens": prompt,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens": answer,
        }


def fill(path: Path, prices_path: Path, retention: Retention | None = None) -> MeteringFrontier:
    """100 tasks: 60 kept here, 10 from the cache, 30 escalated; 90 resolved; some idle energy."""
    frontier, now = MeteringFrontier(), now_us()
    price = load_prices(prices_path).of("big")
    with Ledger.open(path, retention=retention) as ledger:
        for number in range(100):
            kept, cached = number < 60, 60 <= number < 70
            common: dict[str, Any] = {
                "at_us": now - (number % 5) * US_PER_DAY,
                "request_id": f"r{number}",
                "task_id": f"t{number}",
                "endpoint": "search" if number % 2 else "help",
                "tag": "beta" if number % 10 == 0 else "",
            }
            ledger.append(
                Attempt(
                    **common,
                    tier=Tier.CACHE if cached else Tier.LOCAL,
                    model="assistant@1",
                    model_digest="d1",
                    tokens_in=100,
                    tokens_out=20,
                    energy_uj=0 if cached else 5_000_000,
                    energy_source=JouleSource.NONE if cached else JouleSource.MODEL,
                    energy_nano=0 if cached else 417,
                    hardware_nano=0 if cached else 300,
                    answered=kept or cached,
                    duration_us=1000,
                )
            )
            if not kept and not cached:
                tokens = tokens_from_usage(frontier.usage())
                ledger.append(
                    Attempt(
                        **common,
                        attempt=1,
                        tier=Tier.FRONTIER,
                        model="big",
                        tokens_in=tokens.tokens_in,
                        tokens_cached=tokens.tokens_cached,
                        tokens_out=tokens.tokens_out,
                        frontier_nano=frontier_cost(tokens, price),
                        money_source=MoneySource.USAGE,
                        price_version="2026-11",
                        answered=True,
                    )
                )
            ledger.outcome(Outcome(at_us=now, task_id=f"t{number}", resolved=number % 10 != 9))
        audit = tokens_from_usage(frontier.usage())
        ledger.append(
            Attempt(
                at_us=now,
                request_id="r1",
                task_id="t1",
                attempt=1,
                tier=Tier.FRONTIER,
                model="big",
                purpose=Purpose.AUDIT,
                tokens_in=audit.tokens_in,
                tokens_cached=audit.tokens_cached,
                tokens_out=audit.tokens_out,
                frontier_nano=frontier_cost(audit, price),
                money_source=MoneySource.USAGE,
            )
        )
        ledger.append(
            idle_row(
                at_us=now,
                wall_us=60_000_000,
                energy_uj=300_000_000,
                energy_source=JouleSource.ASSUMPTION,
                energy_nano=25_000,
            )
        ).result()
    return frontier


def test_the_sum_equals_the_frontiers_own_meter(run: Run, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    frontier = fill(tmp_path / "ledger.db", prices)
    with open_reader(tmp_path / "ledger.db") as reader:
        ours = lines(reader, By.MODEL)["big"]
    theirs = (frontier.total[0], frontier.total[1], frontier.total[2])
    found = reconcile("big", ours, theirs, load_prices(prices).of("big"))
    assert found.agrees, found
    assert found.cost_nano[0] > 10**7


@pytest.mark.parametrize("by", By)
def test_every_breakdown_has_the_same_total(run: Run, tmp_path: Path, by: By) -> None:
    fill(tmp_path / "ledger.db", tmp_path / "prices.toml")
    report = json.loads(run("cost", "--by", by, "--json"))
    whole = json.loads(run("cost", "--json"))
    assert report["total"] == whole["total"]
    total = report["total"]
    assert (total["requests"], total["tasks"], total["resolved"]) == (100, 100, 90)
    assert (total["from_local"], total["from_cache"], total["from_frontier"]) == (60, 10, 30)
    assert total["model_uj"] == 90 * 5_000_000
    assert total["idle_uj"] == total["assumption_uj"] == 300_000_000
    assert total["per_resolved_nano"] == round(total["cost_nano"] / 90)


def test_a_task_is_credited_where_it_ended(run: Run, tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db", tmp_path / "prices.toml")
    groups = json.loads(run("cost", "--by", "tier", "--json"))["groups"]
    assert {name: one["tasks"] for name, one in groups.items()} == {
        "cache": 10,
        "frontier": 30,
        "local": 60,
    }
    assert sum(one["resolved"] for one in groups.values()) == 90


@pytest.mark.parametrize("by", [By.TOTAL, By.MODEL, By.TIER, By.ENDPOINT, By.TAG, By.DAY])
def test_a_report_is_the_same_before_and_after_a_roll_up(run: Run, tmp_path: Path, by: By) -> None:
    fill(tmp_path / "ledger.db", tmp_path / "prices.toml")
    before = json.loads(run("cost", "--by", by, "--since", "all", "--json"))
    with Ledger.open(tmp_path / "ledger.db", retention=Retention(max_detail_rows=20)) as ledger:
        while ledger.maintain().result():
            pass
    with open_reader(tmp_path / "ledger.db") as reader:
        assert reader.execute("SELECT count(*) FROM attempts").fetchone()[0] == 20
    assert json.loads(run("cost", "--by", by, "--since", "all", "--json")) == before


def test_savings_are_told_with_their_interval(run: Run, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    fill(tmp_path / "ledger.db", prices)
    report = json.loads(run("cost", "--prices", str(prices), "--json"))
    saved = report["savings"]
    assert report["currency"] == "USD"
    assert saved["tasks"] == 100
    assert saved["low"] < saved["share"] < saved["high"]
    total = report["total"]
    kept = 70 * (100 * 2500 + 20 * 10_000)
    assert saved["all_frontier_nano"] == total["answered_frontier_nano"] + kept
    assert saved["actual_nano"] == total["cost_nano"]
    text = run("cost", "--prices", str(prices), "--by", "endpoint", "--per", "task")
    assert "per resolved task" in text
    assert "95% interval" in text
    assert "help" in text
    assert "J by model" in text


def test_since_leaves_older_rows_out(run: Run, tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db", tmp_path / "prices.toml")
    assert json.loads(run("cost", "--since", "12h", "--json"))["total"]["requests"] == 20
    assert len(json.loads(run("cost", "--by", "day", "--json"))["groups"]) == 5


def test_the_break_even_is_computed_from_the_ledger(run: Run, tmp_path: Path) -> None:
    prices = str(tmp_path / "prices.toml")
    fill(tmp_path / "ledger.db", tmp_path / "prices.toml")
    result = json.loads(run("breakeven", "--prices", prices, "--json"))
    assert result["local_share"] == 0.7
    assert result["local_nano"] == pytest.approx(90 * 417 / 100)
    fixed = 25 * 10**9 + 5 * 0.73 * 0.30 * 10**9
    assert result["fixed_nano"] == pytest.approx(fixed, rel=1e-6)
    gain = 0.7 * result["frontier_nano"] - result["local_nano"]
    assert result["requests_per_month"] == pytest.approx(fixed / gain)
    text = run("breakeven", "--prices", prices, "--local-share", "0.0")
    assert "never" in text
    assert "less" not in run("breakeven", "--prices", prices, "--local-share", "0.5")
    assert "from 0 to 1" in run("breakeven", "--prices", prices, "--local-share", "2", status=1)


def test_refusals_say_what_to_do(run: Run, tmp_path: Path) -> None:
    assert "there is no ledger" in run("cost", status=1)
    prices = tmp_path / "prices.toml"
    with Ledger.open(tmp_path / "ledger.db"):
        pass
    assert json.loads(run("cost", "--json"))["total"]["cost_nano"] == 0
    assert "nothing was answered" in run("cost", "--prices", str(prices))
    assert "longer --since" in run("breakeven", "--prices", str(prices), status=1)
    assert "--since" in run("cost", "--since", "soon", status=1)
    assert "no price" in run("cost", "--prices", str(prices), "--against", "other", status=1)
    prices.write_text(PRICES + "[frontier.small]\ninput=1\ncached_input=1\noutput=1\n")
    assert "--against" in run("cost", "--prices", str(prices), status=1)
    assert "usage" not in run("cost", "--prices", str(prices), "--against", "small")


def test_ledger_and_prices_of_the_settings_are_taken(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    fill(tmp_path / "ledger.db", prices)
    config = tmp_path / "edge.toml"
    config.write_text(f'[ledger]\npath = "{tmp_path}/ledger.db"\n[prices]\nfile = "{prices}"\n')

    def cost(*more: str) -> Any:
        result = CliRunner().invoke(app, ["cost", "--json", "--config", str(config), *more])
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    report = cost()
    assert (report["currency"], report["total"]["requests"]) == ("USD", 100)
    assert report["savings"]["tasks"] == 100
    prices.write_text(PRICES + "[frontier.small]\ninput=1\ncached_input=1\noutput=1\n")
    assert cost()["savings"] is None
    assert cost("--against", "big")["savings"] == report["savings"]


def test_few_tasks_have_no_interval(run: Run, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.append(
            Attempt(
                at_us=now_us(),
                request_id="r",
                task_id="t",
                tier=Tier.FRONTIER,
                model="big",
                tokens_in=10,
                frontier_nano=25_000,
                money_source=MoneySource.WORST_CASE,
                answered=True,
            )
        ).result()
    text = run("cost", "--prices", str(tmp_path / "prices.toml"))
    assert "too few for an interval" in text
    assert "worst case" in text
