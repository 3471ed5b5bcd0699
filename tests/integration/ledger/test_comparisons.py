"""Comparisons on disk: appended, never changed, gone with their attempts; older files taken on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edge_runtime.ledger import schema
from edge_runtime.ledger.database import open_reader, open_writer
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.rollup import Retention
from edge_runtime.ledger.rows import Attempt, ComparedBy, Comparison, Tier

NOW = 1_795_348_800_000_000


def attempt(number: int) -> Attempt:
    return Attempt(
        at_us=NOW, request_id=f"r{number}", task_id=f"t{number}", tier=Tier.LOCAL, model="m@1",
        model_digest="d1", answered=True, score_ppm=900_000 + number, task="intent",
    )  # fmt: skip


def comparison(number: int) -> Comparison:
    return Comparison(
        at_us=NOW, request_id=f"r{number}", agreed=number % 2 == 0, source=ComparedBy.AUDIT,
        share_ppm=15_000, score_ppm=900_000 + number, task="intent", model_digest="d1",
        certificate="c" * 64,
    )  # fmt: skip


def test_scores_and_comparisons_are_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger.open(path, clock=lambda: NOW) as ledger:
        ledger.append(attempt(1)).result()
        assert ledger.compare(comparison(1)).result() == 1
    with open_reader(path) as reader:
        kept = dict(reader.execute("SELECT * FROM comparisons").fetchone())
        assert kept.pop("after_id") == 1
        assert kept.pop("id") == 1
        assert Comparison(**{**kept, "agreed": bool(kept["agreed"])}) == comparison(1)
        assert reader.execute("SELECT score_ppm, task FROM attempts").fetchone()[:] == (
            900_001,
            "intent",
        )
    memory = MemoryLedger(lambda: NOW)
    assert memory.compare(comparison(1)).result() == 1
    assert memory.comparisons == [comparison(1)]


@pytest.mark.parametrize(
    "statement", ["UPDATE comparisons SET agreed = 1", "DELETE FROM comparisons"]
)
def test_what_is_written_stays(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "ledger.db"
    with Ledger.open(path, clock=lambda: NOW) as ledger:
        ledger.append(attempt(1)).result()
        ledger.compare(comparison(1)).result()
    connection = open_writer(path)
    try:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    finally:
        connection.close()


def test_comparisons_go_with_their_attempts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    keep = Retention(max_detail_rows=2, chunk_rows=3)
    with Ledger.open(path, clock=lambda: NOW, retention=keep) as ledger:
        for number in range(10):
            ledger.append(attempt(number)).result()
            ledger.compare(comparison(number)).result()
        while ledger.maintain().result():
            pass
    with open_reader(path) as reader:
        left = [row[0] for row in reader.execute("SELECT request_id FROM comparisons ORDER BY id")]
        assert left == ["r8", "r9"]


def test_a_file_of_the_first_version_is_taken_along(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = sqlite3.connect(path, isolation_level=None)
    schema.migrate(old, schema.MIGRATIONS[:1])
    columns = [one[1] for one in old.execute("PRAGMA table_info(attempts)")][1:]
    values = {"at_us": NOW, "request_id": "r", "task_id": "t", "tier": "local", "model": "m"}
    texts = {"tenant", "endpoint", "tag", "purpose", "model_digest", "money_source",
             "price_version", "energy_source", "status", "reason"}  # fmt: skip
    row = [values.get(name, "" if name in texts else 0) for name in columns]
    old.execute(
        f"INSERT INTO attempts ({', '.join(columns)}) VALUES ({', '.join('?' * len(row))})", row
    )
    old.close()
    with Ledger.open(path, clock=lambda: NOW) as ledger:
        ledger.compare(comparison(1)).result()
    with open_reader(path) as reader:
        assert reader.execute("SELECT score_ppm, task FROM attempts").fetchone()[:] == (None, "")
        assert reader.execute("SELECT after_id FROM comparisons").fetchone()[0] == 1


@pytest.mark.parametrize("change", [{"share_ppm": 0}, {"score_ppm": 10**6 + 1}, {"at_us": -1}])
def test_a_comparison_out_of_its_domain_is_refused(change: dict[str, int]) -> None:
    fine = {"at_us": NOW, "request_id": "r", "agreed": True, "source": ComparedBy.AUDIT}
    with pytest.raises(ValueError, match=r"ppm|at_us"):
        Comparison(**{**fine, **change})  # type: ignore[arg-type]
