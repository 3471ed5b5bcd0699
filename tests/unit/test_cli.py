"""The command `edge-runtime`, without a model."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_runtime import __version__, cli
from tests.support.bundles import FakeLoader, write_tiny_bundle


@pytest.fixture(autouse=True)
def loader(monkeypatch: pytest.MonkeyPatch) -> FakeLoader:
    made = FakeLoader()
    monkeypatch.setattr(cli, "_loader", lambda _: made)
    return made


def run(*arguments: str | Path, status: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    assert result.exit_code == status, result.output
    return result.output


def digest_in(text: str) -> str:
    found = re.search(r"[0-9a-f]{64}", text)
    assert found is not None, text
    return found[0]


def test_version() -> None:
    assert run("version").strip() == __version__


def test_a_bundle_is_installed_and_listed(tmp_path: Path, loader: FakeLoader) -> None:
    store = tmp_path / "store"
    assert "no model is active" in run("models", "--store", store)
    write_tiny_bundle(tmp_path / "one")
    digest = digest_in(run("install", tmp_path / "one", "--store", store))
    assert loader.events == ["load 1.0.0", "commit"]
    listing = run("models", "--store", store)
    assert "tiny" in listing
    assert digest[:12] in listing


def test_activate_and_revert_move_between_bundles(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_tiny_bundle(tmp_path / "one")
    write_tiny_bundle(tmp_path / "two", weights=b"weights 2")
    first = digest_in(run("install", tmp_path / "one", "--store", store))
    second = digest_in(run("install", tmp_path / "two", "--store", store))
    assert first != second
    assert digest_in(run("revert", "tiny", "--store", store)) == first
    assert digest_in(run("activate", "tiny", second[:10], "--store", store)) == second


def test_clean_keeps_what_is_active_and_what_revert_goes_back_to(tmp_path: Path) -> None:
    store = tmp_path / "store"
    digests = []
    for number in range(3):
        write_tiny_bundle(tmp_path / str(number), weights=b"weights %d" % number)
        digests.append(digest_in(run("install", tmp_path / str(number), "--store", store)))
    said = run("clean", "--store", store)
    assert digest_in(said) == digests[0]
    assert "1 bundles removed" in said
    assert digest_in(run("revert", "tiny", "--store", store)) == digests[1]
    assert "0 bundles removed" in run("clean", "--store", store)


def test_refusals_end_with_one_and_the_reason(tmp_path: Path, loader: FakeLoader) -> None:
    store = tmp_path / "store"
    write_tiny_bundle(tmp_path / "one")
    loader.refuse = "golden answer 0 is wrong"
    assert "golden answer 0" in run("install", tmp_path / "one", "--store", store, status=1)
    assert "is not in the store" in run("activate", "tiny", "ffff", "--store", store, status=1)
    assert "no previous bundle" in run("revert", "tiny", "--store", store, status=1)
    assert "manifest.json" in run("install", tmp_path / "none", "--store", store, status=1)
    assert "no model is active" in run("models", "--store", store)


def test_settings_are_checked_and_shown(tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text("[server]\nport = 9000\n")
    bad = tmp_path / "bad.toml"
    bad.write_text("[server]\nprot = 9000\n")
    assert "valid" in run("config", "check", "--config", good)
    assert "did you mean port?" in run("config", "check", "--config", bad, status=1)
    assert "port = 9000" in run("config", "show", "--config", good)


def test_variables_reach_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_SERVER__PORT", "9123")
    assert "port = 9123" in run("config", "show")


def test_the_key_and_its_digest_belong_together() -> None:
    text = run("config", "key", "kitchen")
    key = re.search(r"only now: (\S+)", text)
    assert key is not None
    assert f'kitchen = "{hashlib.sha256(key[1].encode()).hexdigest()}"' in text


def test_wrong_usage_ends_with_two() -> None:
    run("install", status=2)
    run("nonsense", status=2)
