"""The commands of the control host, on a database of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from edge_runtime.config_loader import settings_toml
from fleet.cli import app
from fleet.db.database import open_database
from fleet.registry import boxes, reports, tokens
from tests.support.control_host import settings_in
from tests.support.fleet import NOW_S, have

ONE = "acme~box-1"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = settings_in(
        tmp_path, broker={"passwords_file": tmp_path / "passwords", "acl_file": tmp_path / "acl"}
    )
    path = tmp_path / "fleet.toml"
    path.write_text(settings_toml(settings))
    database = open_database(settings.database.url)

    def work(connection: object) -> None:
        boxes.add(connection, ONE, {"site": "oslo"}, now_s=NOW_S)  # type: ignore[arg-type]
        reports.apply_have(connection, ONE, have(ONE), now_s=NOW_S)  # type: ignore[arg-type]

    database.write_now(work)
    database.close()
    return path


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """`serve` sets up logs on the runner's standard error, which is closed afterwards."""
    yield
    structlog.reset_defaults()


def run(config: Path, *arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, [*arguments, "--config", str(config)])
    assert result.exit_code == status, result.output
    return result.output


def test_boxes_are_listed_labelled_and_put_out(config: Path, tmp_path: Path) -> None:
    (listed,) = json.loads(run(config, "boxes", "list", "--json"))
    assert (listed["principal"], listed["labels"]) == (ONE, {"site": "oslo"})
    run(config, "boxes", "label", ONE, "site=", "line=2")
    assert json.loads(run(config, "boxes", "show", ONE))["labels"] == {"line": "2"}
    assert json.loads(run(config, "boxes", "list", "--where", "labels.line == '3'", "--json")) == []
    run(config, "boxes", "revoke", ONE, "--reason", "sold")
    assert json.loads(run(config, "boxes", "list", "--json")) == []
    assert ONE not in (tmp_path / "passwords").read_text()
    log = json.loads(run(config, "audit", "--about", f"box/{ONE}", "--json"))
    assert [one["action"] for one in log] == ["box.revoke", "box.labels"]


def test_groups_come_and_go(config: Path) -> None:
    run(config, "groups", "put", "oslo", "labels.site == 'oslo'")
    (listed,) = json.loads(run(config, "groups", "list", "--json"))
    assert listed["expression"] == "labels.site == 'oslo'"
    run(config, "groups", "delete", "oslo")
    assert json.loads(run(config, "groups", "list", "--json")) == []


def test_a_token_is_shown_once(config: Path) -> None:
    secret = run(config, "tokens", "create", "ci", "--role", "operator").strip()
    assert secret.startswith(tokens.PREFIX)
    text = run(config, "tokens", "list", "--json")
    assert secret not in text
    (listed,) = json.loads(text)
    run(config, "tokens", "revoke", listed["id"])
    assert json.loads(run(config, "tokens", "list", "--json"))[0]["revoked_s"] is not None


def test_a_claim_is_shown_once(config: Path) -> None:
    secret = run(config, "claims", "create", "acme", "--label", "site=oslo", "--approve").strip()
    text = run(config, "claims", "list", "--json")
    assert secret not in text
    (listed,) = json.loads(text)
    assert (listed["labels"], listed["approve"]) == ({"site": "oslo"}, True)
    run(config, "claims", "revoke", listed["id"])
    assert json.loads(run(config, "enrolments", "list", "--json")) == []


def test_tables_are_for_people(config: Path) -> None:
    assert ONE in run(config, "boxes", "list").replace("\n", "")
    for what in ("groups", "tokens", "claims", "enrolments"):
        assert run(config, what, "list")


def test_the_broker_gets_its_files(config: Path, tmp_path: Path) -> None:
    text = run(config, "broker", "config")
    assert f"acl_file {tmp_path / 'acl'}" in text
    run(config, "broker", "sync")
    assert "pattern read fl/1/+/%u/want" in (tmp_path / "acl").read_text()
    assert (tmp_path / "passwords").read_text().startswith("control:$7$")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("boxes", "show", "acme~nobody"), "no box"),
        (("boxes", "list", "--where", "labls.x == 1"), "line 1, column 1"),
        (("boxes", "label", ONE, "x=\u00fc"), "labels"),
        (("groups", "put", "g", "cores"), "gives int"),
        (("claims", "create", "Not A Tenant"), "tenant"),
        (("claims", "revoke", "none"), "no claim"),
        (("tokens", "revoke", "none"), "no token"),
        (("enrolments", "approve", "none"), "no request"),
    ],
)
def test_refusals_say_why(config: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in run(config, *arguments, status=1)


def test_serving_without_keys_says_what_to_do(config: Path) -> None:
    assert "edge-fleet keys init" in run(config, "serve", status=1)


def test_settings_are_shown(config: Path) -> None:
    assert "[broker]" in run(config, "config")
