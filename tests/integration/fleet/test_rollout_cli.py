"""The rollout commands on a real database and a real repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_runtime.bundle.files import RealFiles
from fleet.cli import app
from fleet.db.database import Database, open_database
from fleet.registry import boxes, reports
from tests.support import published
from tests.support.bundles import write_tiny_bundle
from tests.support.fleet import GIB, HARDWARE, NOW_S, have

PLAN = """
name = "tiny 1"
[change]
name = "tiny"
digest = "{digest}"
[target]
boxes = '{target}'
[guards.quality.escalation_rate]
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a repository, a database of 30 boxes, and a plan."""
    monkeypatch.setattr(published, "HOME", tmp_path / "repository")
    fleet = published.MemoryFleet(files=RealFiles())
    write_tiny_bundle(tmp_path / "bundle", release=1)
    digest = fleet.publisher.bundle(tmp_path / "bundle").digest
    (tmp_path / "plan.toml").write_text(PLAN.format(digest=digest, target="true"))
    url = f"sqlite:///{tmp_path}/fleet.db"
    monkeypatch.setenv("EDGEFLEET_DATABASE__URL", url)
    monkeypatch.setenv("EDGEFLEET_PUBLISH__REPOSITORY", str(tmp_path / "repository"))
    database = open_database(url)
    database.write_now(some_boxes)
    database.close()
    return tmp_path


def some_boxes(connection: Any) -> None:
    for number in range(30):
        box = f"acme~box-{number}"
        boxes.add(connection, box, {}, now_s=NOW_S)
        weak = HARDWARE.model_copy(update={"memory_bytes": 1}) if number < 3 else HARDWARE
        told = have(box, metered=number == 7, hardware=weak, disk_free_bytes=GIB)
        reports.apply_have(connection, box, told, now_s=NOW_S)


def run(*arguments: str | Path, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == status, result.output
    return result.output


def test_a_forecast_says_who_when_and_what_guards_can_see(host: Path) -> None:
    said = run("rollout", host / "plan.toml", "--plan")
    assert "27 boxes in 2 waves, 0 held back" in said
    assert "metered: 1; not connected now: 0" in said
    assert "left out: 3 (too little memory): acme~box-0, acme~box-1, acme~box-2" in said
    assert "wave 1: broken halts on 3 harmed boxes of 20 (15.0%)" in said
    assert "assumed" in said
    assert "warning: wave 1: guard escalation_rate has 7 pairs" in said
    assert run("rollouts", "list").split() == ["id", "name", "what", "phase", "wave", "filed", "by"]


def filed(host: Path) -> str:
    found = re.search(r"(r-[0-9a-f]{10}) is draft", run("rollout", host / "plan.toml"))
    assert found is not None
    return found[1]


def test_a_rollout_is_filed_approved_and_steered(host: Path) -> None:
    name = filed(host)
    assert "tiny 1" in run("rollouts", "list")
    assert "is draft; approve it first" in run("rollouts", "pause", name, status=1)
    assert run("rollouts", "approve", name).strip() == f"{name} is approved"
    assert run("rollouts", "cancel", name, "--reason", "typo").strip() == f"{name} is cancelled"
    shown = run("rollouts", "show", name)
    assert "draft -> approved, wave 1" in shown
    assert "approved -> cancelled, wave 1" in shown
    assert shown.rstrip().endswith("typo")
    assert "cannot rollback a rollout that is cancelled" in run("rollouts", "rollback", name,
                                                                 status=1)  # fmt: skip


def test_nothing_to_explain_yet_and_unknown_ones_are_said_to_be(host: Path) -> None:
    name = filed(host)
    assert run("rollouts", "explain", name) == ""
    assert "has no verdict 7" in run("rollouts", "explain", name, "--verdict", "7", status=1)
    replayed = run("rollouts", "replay", name, "--rule", host / "plan.toml")
    assert replayed.strip() == "no guard would have said anything"
    for command in ("show", "retry", "halt", "resume", "rollback"):
        assert "there is no rollout 'r-0'" in run("rollouts", command, "r-0", status=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 1", "name: Input should be a valid string"),
        (PLAN.format(digest="e" * 64, target="true"), "publish it first"),
        (PLAN.format(digest="e" * 64, target="sight"), "target.boxes: expression, line 1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(host: Path, text: str, message: str) -> None:
    (host / "plan.toml").write_text(text)
    assert message in run("rollout", host / "plan.toml", status=1)
    assert message in run("rollout", host / "plan.toml", "--plan", status=1)
    assert "cannot be read" in run("rollout", host / "none.toml", status=1)


def test_the_database_keeps_what_was_filed(host: Path) -> None:
    name = filed(host)
    database: Database = open_database(f"sqlite:///{host}/fleet.db")
    try:
        stored = database.read_now(
            lambda c: c.exec_driver_sql("SELECT id, phase, version FROM rollouts").all()
        )
    finally:
        database.close()
    assert [tuple(row) for row in stored] == [(name, "draft", 0)]
