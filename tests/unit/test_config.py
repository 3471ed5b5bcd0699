"""Settings: what is read, what wins, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.config import Settings
from edge_runtime.config_file import load_settings, parse_settings, settings_toml
from edge_runtime.errors import ConfigError


def test_defaults_need_no_file() -> None:
    settings = load_settings(None, {})
    assert settings == Settings()
    assert settings.server.host == "127.0.0.1"
    assert settings.server.on_loopback


def test_the_file_is_read_and_variables_win(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text('[server]\nport = 9000\nbody_timeout_s = 5\n[log]\nformat = "json"\n')
    settings = load_settings(path, {"EDGE_SERVER__PORT": "9001", "UNRELATED": "x"})
    assert settings.server.port == 9001
    assert settings.server.body_timeout_s == 5
    assert settings.log.format == "json"


@pytest.mark.parametrize("text", ["a, b", '["a", "b"]'])
def test_lists_in_variables(text: str) -> None:
    assert load_settings(None, {"EDGE_MODELS__SERVE": text}).models.serve == ["a", "b"]


def test_tables_in_variables() -> None:
    environ = {
        "EDGE_MODELS__OPTIONS": '{"a-b": {"slots": 2}}',
        "EDGE_SERVER__OPEN_METRICS": "true",
    }
    settings = load_settings(None, environ)
    assert settings.models.options["a-b"].slots == 2
    assert settings.server.open_metrics


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"server": {"prot": 1}}, "server.prot: unknown key; did you mean port?"),
        ({"servr": {}}, "servr: unknown key; did you mean server?"),
        ({"server": {"zzz": 1}}, "server.zzz: unknown key; see docs/reference/settings.md"),
        ({"models": {"options": {"a": {"slot": 1}}}}, "did you mean slots?"),
        ({"server": {"port": 70000}}, "server.port: "),
        ({"server": {"max_body_bytes": 0}}, "server.max_body_bytes: "),
        ({"engine": {"inter_token_target_ms": 0}}, "engine.inter_token_target_ms: "),
        ({"log": {"level": "loud"}}, "log.level: "),
        ({"server": {"host": "0.0.0.0"}}, "can be reached by other machines"),
        ({"server": {"host": "edge.local"}}, "can be reached by other machines"),
        ({"server": {"api_key_sha256": {"a": "secret"}}}, "64 lower-case hex digits"),
        ({"server": {"api_key_sha256": {"A b": "0" * 64}}}, "tenant"),
        ({"engine": {"min_chunk_tokens": 300}}, "min_chunk_tokens (300) must not exceed"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(data: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(data)
    assert says in str(caught.value)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings({"server": {"port": -1}, "log": {"colour": "red"}})
    assert "server.port" in str(caught.value)
    assert "log.colour" in str(caught.value)


@pytest.mark.parametrize(
    "server",
    [
        {"host": "0.0.0.0", "api_key_sha256": {"a": "0" * 64}},
        {"host": "::", "allow_open_off_loopback": True},
        {"host": "::1"},
        {"host": "localhost"},
    ],
)
def test_hosts_that_are_fine(server: dict[str, object]) -> None:
    assert parse_settings({"server": server}).server.host == server["host"]


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"EDGE_SERVER_PORT": "1"}, "did you mean EDGE_SERVER__PORT?"),
        ({"EDGE_SERVER__PROT": "1"}, "did you mean port?"),
        ({"EDGE_MODELS__SERVE": "[a"}, "not valid JSON"),
        ({"EDGE_MODELS__OPTIONS": "x"}, "not valid JSON"),
        ({"EDGE_NOWHERE__X": "1"}, "nowhere"),
        ({"EDGE_SERVER__PORT__X": "1"}, "server.port"),
    ],
)
def test_bad_variables_are_refused(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, environ)
    assert says in str(caught.value)


def test_a_variable_below_a_plain_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text("[server]\nport = 9000\n")
    with pytest.raises(ConfigError, match="port is not a table"):
        load_settings(path, {"EDGE_SERVER__PORT__X": "1"})


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_settings(tmp_path / "missing.toml", {})
    bad = tmp_path / "bad.toml"
    bad.write_text("[server\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(bad, {})
    bad.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(bad, {})


def test_what_is_shown_is_read_back_to_the_same(tmp_path: Path) -> None:
    settings = parse_settings(
        {
            "server": {"api_key_sha256": {"a.b": "0" * 64}, "allowed_hosts": ['x"y']},
            "models": {"options": {"minilm-l6": {"slots": 2, "variant": "int8"}, "é.x": {}}},
        }
    )
    path = tmp_path / "shown.toml"
    path.write_text(settings_toml(settings), encoding="utf-8")
    shown = load_settings(path, {})
    assert shown.server == settings.server
    assert shown.models.options["minilm-l6"] == settings.models.options["minilm-l6"]
