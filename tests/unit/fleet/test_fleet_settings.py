"""Settings of the control host: read from a file and variables, refused when they cannot hold."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edge_runtime.config_loader import settings_toml
from edge_runtime.errors import ConfigError
from fleet.settings import FleetSettings, load_settings


def test_the_defaults_hold_and_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(settings_toml(FleetSettings()))
    assert load_settings(path, {}) == FleetSettings()
    assert set(tomllib.loads(path.read_text())) <= set(FleetSettings.model_fields)


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text("[api]\nport = 1000\n")
    settings = load_settings(path, {"EDGEFLEET_API__PORT": "2000", "EDGE_SERVER__PORT": "3000"})
    assert settings.api.port == 2000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[api]\nprot = 1", "did you mean port"),
        ("[api]\nhost = '0.0.0.0'", "in the clear"),
        ("[api]\ntls_key = '/k'", "go together"),
        ("[broker]\nacl_file = '/a'", "go together"),
        ("[broker]\nuser = 'a~b'", "broker.user"),
        ("[ingest]\nshards = [64]", "0 to 63"),
        ("[ingest]\nshards = []", "ingest.shards"),
        ("[alerts]\nwebhook_url = 'file:///etc/passwd'", "alerts.webhook_url"),
        ("[enrol]\nmode = 'open'", "enrol.mode"),
    ],
)
def test_what_cannot_hold_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_settings(path, {})


def test_a_variable_with_one_underscore_is_not_passed_over() -> None:
    with pytest.raises(ConfigError, match="EDGEFLEET_API__PORT"):
        load_settings(None, {"EDGEFLEET_API_PORT": "1"})


def test_off_loopback_takes_tls_or_a_proxy() -> None:
    proxied = {"EDGEFLEET_API__HOST": "10.0.0.1", "EDGEFLEET_API__BEHIND_PROXY": "true"}
    assert load_settings(None, proxied).api.behind_proxy
