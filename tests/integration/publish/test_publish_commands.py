"""The publishing commands, from no keys to a rotated one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from edge_runtime.bundle.envelope import public_pem
from fleet.cli import app
from tests.support.bundles import write_tiny_bundle


class Operator:
    """Runs `edge-fleet` on a repository and keys below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._environ = {
            "EDGE_FLEET_REPO": str(root / "repo"),
            "EDGE_FLEET_KEYS": str(root / "keys"),
            "COLUMNS": "200",
        }

    def run(self, *words: str, ok: bool = True) -> Result:
        result = CliRunner().invoke(app, [*words], env=self._environ)
        assert (result.exit_code == 0) is ok, result.output
        return result

    def versions(self, role: str) -> list[int]:
        names = (path.name for path in (self.root / "repo" / "metadata").glob(f"*.{role}.json"))
        return sorted(int(name.partition(".")[0]) for name in names)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    made = Operator(tmp_path)
    made.run("keys", "init", "--model", "tiny")
    write_tiny_bundle(tmp_path / "bundle")
    return made


def test_a_bundle_is_published_and_its_digest_printed(operator: Operator) -> None:
    result = operator.run("publish", str(operator.root / "bundle"))
    digest = result.stdout.strip()
    assert (operator.root / "repo" / "blobs" / "sha256" / digest).is_file()
    assert f"bundles/tiny/{digest}.json" in result.stderr
    assert "boxes can see it" in result.stderr


def test_settings_and_releases_are_published(operator: Operator) -> None:
    document = operator.root / "policy.json"
    document.write_text('{"alpha": 0.1}')
    settings = operator.run("publish", str(document), "--as", "settings", "--name", "default")
    assert "settings/default/" in settings.stderr
    words = ("--as", "release", "--name", "edge-runtime", "--version", "1.2")
    release = operator.run("publish", str(document), *words)
    blob = operator.root / "repo" / "blobs" / "sha256" / release.stdout.strip()
    assert json.loads(blob.read_bytes())["version"] == "1.2"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("publish", "nowhere"), "nowhere"),
        (("publish", "a", "b"), "one path at a time"),
        (("publish", "a", "--as", "settings"), "needs --name"),
        (("delta", "tiny", "1", "2"), "give a release number"),
        (("keys", "init"), "has a root already"),
        (("keys", "renew", "orders"), "nothing to renew"),
        (("keys", "delegate", "Bad Name"), "must be 1-64"),
        (("timestamp", "--keys", "nowhere"), "edge-fleet keys init"),
    ],
)
def test_refusals_say_what_to_do(operator: Operator, words: tuple[str, ...], reason: str) -> None:
    result = operator.run(*words, ok=False)
    assert result.exit_code == 1
    assert reason in result.stderr.replace("\n", " ")


def test_without_online_keys_publishing_waits_for_the_control_host(operator: Operator) -> None:
    offline = str(operator.root / "keys" / "offline")
    result = operator.run("publish", str(operator.root / "bundle"), "--keys", offline)
    assert "run `edge-fleet timestamp` on the control host" in result.stderr
    before = operator.versions("snapshot")
    operator.run("timestamp", "--keys", str(operator.root / "keys" / "online"))
    assert len(operator.versions("snapshot")) == len(before) + 1


def test_keys_are_shown_and_rotated(operator: Operator) -> None:
    shown = operator.run("keys", "show", "--keys", str(operator.root / "keys"))
    assert "model-tiny" in shown.stdout
    new_key = operator.root / "keys" / "online" / "timestamp-2.pem"
    for _ in range(2):  # run again, as after a run that was cut short
        operator.run("keys", "rotate", "timestamp", "--new-key", str(new_key))
    assert operator.versions("root") == [1, 2, 3]
    operator.run("keys", "delegate", "other")
    operator.run("keys", "renew", "targets")
    assert operator.versions("targets") == [1, 2, 3]


def test_encrypted_keys_need_the_passphrase_file(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    (tmp_path / "phrase").write_text("correct horse\n")
    phrase = ("--passphrase-file", str(tmp_path / "phrase"))
    operator.run("keys", "init", "--model", "tiny", *phrase)
    write_tiny_bundle(tmp_path / "bundle")
    bundle = str(tmp_path / "bundle")
    assert "give --passphrase-file" in operator.run("publish", bundle, ok=False).stderr
    operator.run("publish", bundle, *phrase)
    (tmp_path / "phrase").write_text("\n")
    assert "is empty" in operator.run("publish", bundle, *phrase, ok=False).stderr


def test_the_commands_of_two_people(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.run("keys", "init", "--root-keys", "3", "--root-threshold", "2",
                 "--targets-keys", "2", "--targets-threshold", "2")  # fmt: skip
    offline = tmp_path / "keys" / "offline"
    folders = []
    for name in ("root-1", "root-2", "targets-1", "targets-2"):
        folder = tmp_path / name
        folder.mkdir()
        (offline / f"{name}.pem").rename(folder / f"{name}.pem")
        folders.append(str(folder))
    ada, grace, one, two = folders
    assert (
        "root needs 1 more" in operator.run("keys", "renew", "root", "--keys", ada, ok=False).stderr
    )
    begun = operator.run("keys", "renew", "root", "--draft", "--keys", ada)
    assert "1 more of" in begun.stdout
    assert "edge-fleet keys sign root" in begun.stdout
    looked = operator.run("keys", "sign", "root", "--keys", grace)
    assert "signed by enough people" in looked.stdout
    assert operator.versions("root") == [1, 2]
    operator.run("keys", "renew", "targets", "--draft", "--keys", one)
    done = operator.run("keys", "sign", "targets", "--keys", two)
    assert "run `edge-fleet timestamp`" in done.stdout
    operator.run("timestamp", "--keys", str(tmp_path / "keys" / "online"))
    new = tmp_path / "new.pub"
    new.write_bytes(public_pem(Ed25519PrivateKey.generate().public_key()))
    replaced = operator.run("keys", "replace-root", "--public-key", str(new), "--keys", ada)
    assert "comes" in replaced.stdout
    assert "root: 1 must sign instead of 2" in replaced.stdout
