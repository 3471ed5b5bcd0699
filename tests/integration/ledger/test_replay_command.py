"""`edge-runtime replay` on a ledger made by the ledger."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_runtime.cli import app
from edge_runtime.ledger import schema
from edge_runtime.ledger.ledger import Ledger, now_us
from edge_runtime.ledger.rollup import Retention
from edge_runtime.ledger.rows import (
    Attempt,
    ComparedBy,
    Comparison,
    MoneySource,
    Purpose,
    Status,
    Tier,
)

PRICES = """
schema = 1
version = "2026-11"
as_of = 2026-11-01
currency = "USD"
[frontier.big]
input = 2.50
cached_input = 1.25
output = 10
"""
ONE = 100 * 2500 + 10 * 10_000  # nano-units of a request at the frontier

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "prices.toml").write_text(PRICES)

    def call(*arguments: str, status: int = 0) -> str:
        given = ["replay", *arguments, "--ledger", str(tmp_path / "ledger.db")]
        result = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
        assert result.exit_code == status, result.output
        return result.output

    return call


def fill(path: Path, *, digest: str = "d1", task: str = "intent", first: int = 0) -> None:
    """400 requests with scores 0, 0.0025, ...: 100 escalated, 270 kept, 30 from the cache.

    Every escalated one is compared, half of them wrong; every fourth kept one is audited, wrong
    below 0.4.
    """
    now = now_us() - 1_000_000
    with Ledger.open(path) as ledger:
        for number in range(400):
            score = number * 2500
            kept = score >= 250_000
            common: dict[str, Any] = {
                "at_us": now,
                "request_id": f"r{first + number}",
                "task_id": f"t{first + number}",
            }
            local: dict[str, Any] = {
                "model": f"{task}@1", "model_digest": digest, "task": task, "score_ppm": score,
                "tokens_in": 100, "tokens_out": 10,
            }  # fmt: skip
            frontier: dict[str, Any] = {
                "tier": Tier.FRONTIER, "model": "big", "tokens_in": 100, "tokens_out": 10,
                "frontier_nano": ONE, "money_source": MoneySource.USAGE, "attempt": 1,
            }  # fmt: skip
            if number % 10 == 9 and kept:
                cached: dict[str, Any] = {"tier": Tier.CACHE, "reason": "cached", "saved_nano": 50}
                ledger.append(Attempt(**common, **local, **cached, answered=True))
                continue
            ledger.append(
                Attempt(
                    **common,
                    **local,
                    tier=Tier.LOCAL,
                    hardware_nano=50,
                    reason="confident" if kept else "low-confidence",
                    status=Status.OK if kept else Status.DISCARDED,
                    answered=kept,
                )
            )
            if not kept:
                ledger.append(Attempt(**common, **frontier, reason="low-confidence", answered=True))
            elif number % 4 == 0:
                ledger.append(Attempt(**common, **frontier, reason="audit", purpose=Purpose.AUDIT))
            if not kept or number % 4 == 0:
                ledger.compare(
                    Comparison(
                        at_us=now,
                        request_id=common["request_id"],
                        agreed=bool(number % 2) if not kept else score >= 400_000,
                        source=ComparedBy.AUDIT if kept else ComparedBy.ESCALATED,
                        share_ppm=250_000 if kept else 10**6,
                        score_ppm=score,
                        task=task,
                        model_digest=digest,
                    )
                )


def test_nothing_changed_costs_what_the_ledger_says(run: Run, tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db")
    report = json.loads(run("--json"))
    cost = CliRunner().invoke(app, ["cost", "--json", "--ledger", str(tmp_path / "ledger.db")])
    total = json.loads(cost.output)["total"]
    assert report["was"]["cost_nano"] == report["would"]["cost_nano"] == total["cost_nano"]
    assert report["was"]["requests"] == total["requests"] == 400
    was = report["was"]
    assert (was["from_cache"], was["from_here"], was["from_frontier"]) == (30, 270, 100)
    assert was["error"]["compared"] == 75
    assert was["error"]["error"] == pytest.approx(15 / 75)


def test_another_threshold_moves_money_and_error(run: Run, tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db")
    prices = ("--prices", str(tmp_path / "prices.toml"), "--json")
    base = json.loads(run("--json"))["was"]["cost_nano"]
    loose = json.loads(run("--threshold", "0.2", "--json"))["would"]
    assert loose["from_frontier"] == 80
    assert loose["cost_nano"] == base - 20 * ONE
    assert loose["error"]["error"] == pytest.approx((270 * 15 / 75 + 20 * 0.5) / 290)
    strict = json.loads(run("--threshold", "0.4", *prices))["would"]
    moved = 160 - 100 - 6
    assert strict["from_frontier"] == 100 + moved
    assert strict["estimated"] == moved
    assert strict["cost_nano"] == base + moved * ONE
    assert strict["error"]["error"] == 0.0
    assert strict["error"]["high"] > 0.0
    assert "--prices" in run("--threshold", "0.4", status=1)


def test_another_alpha_takes_the_threshold_that_can_be_shown(run: Run, tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db")
    prices = ("--prices", str(tmp_path / "prices.toml"))
    report = json.loads(run("--alpha", "0.1", *prices, "--json"))
    assert 0.3 < report["threshold"] < 0.42
    assert report["bound"] <= 0.1
    nothing = json.loads(run("--alpha", "0.001", *prices, "--json"))
    assert nothing["threshold"] is None
    assert nothing["would"]["from_here"] == 0
    assert "everything would escalate" in nothing["notes"][0]
    text = run("--alpha", "0.1", *prices)
    assert "wrong among kept" in text
    assert "95% interval" in text


def test_without_the_cache_and_at_other_prices(run: Run, tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db")
    base = json.loads(run("--json"))["was"]["cost_nano"]
    uncached = json.loads(run("--no-cache", "--json"))["would"]
    assert uncached["from_cache"] == 0
    assert uncached["from_here"] == 300
    assert uncached["cost_nano"] == base + 30 * 50
    dear = tmp_path / "dear.toml"
    dear.write_text(PRICES.replace("2.50", "5").replace("1.25", "2.5").replace("= 10", "= 20"))
    report = json.loads(run("--prices", str(dear), "--json"))
    assert report["would"]["cost_nano"] - base == (100 + 75) * ONE
    dear.write_text(PRICES.replace("frontier.big", "frontier.other"))
    assert "no price for frontier model 'big'" in run("--prices", str(dear), status=1)


def test_two_tasks_are_told_apart(run: Run, tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db")
    fill(tmp_path / "ledger.db", digest="d2", task="slots", first=400)
    refused = run("--threshold", "0.2", status=1)
    assert "--model intent@1 --task intent" in refused
    both = json.loads(run("--json"))
    assert both["was"]["error"] is None
    assert "choose them by" in both["notes"][0]
    one = json.loads(run("--threshold", "0.2", "--task", "slots", "--json"))
    assert one["model"] == "slots@1"
    assert one["would"]["from_frontier"] == 180
    assert "no request of this while has a score" in run(
        "--threshold", "0.2", "--task", "none", status=1
    )


def test_what_is_not_known_is_said(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger.open(path, retention=Retention(max_detail_rows=3)) as ledger:
        for number in range(5):
            ledger.append(
                Attempt(
                    at_us=now_us() - 10,
                    request_id=f"r{number}",
                    task_id="t",
                    tier=Tier.LOCAL,
                    model="m@1",
                    model_digest="d1",
                    task="intent",
                    score_ppm=900_000,
                    reason="confident",
                    answered=True,
                )
            )
        while ledger.maintain().result():
            pass
    report = json.loads(run("--json"))
    assert report["was"]["error"] is None
    assert "not known" in report["notes"][0]
    assert "2 older requests are only kept as sums" in report["notes"][-1]
    assert "not known" in run()


def test_refusals_say_what_to_do(run: Run, tmp_path: Path) -> None:
    assert "there is no ledger" in run(status=1)
    old = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    schema.migrate(old, schema.MIGRATIONS[:1])
    old.close()
    assert "start the daemon once" in run(status=1)
    with Ledger.open(tmp_path / "ledger.db"):
        pass
    assert "not both" in run("--alpha", "0.1", "--threshold", "0.5", status=1)
    assert "between 0 and 1" in run("--alpha", "0", status=1)
    assert "is not after" in run("--until", "30d", status=1)
    assert json.loads(run("--json"))["was"]["requests"] == 0
