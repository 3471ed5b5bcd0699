"""Settings of frontiers: what is refused at start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge_runtime.errors import ConfigError
from edge_runtime.router.frontier.breaker import BreakerRules
from edge_runtime.router.frontier.lane import target_of
from edge_runtime.router.frontier.memory import memory_prices
from edge_runtime.router.frontier.pool import FrontierPool
from edge_runtime.router.frontier.settings import (
    CaptureSettings,
    FrontierSettings,
    TrimSettings,
)
from edge_runtime.router.frontier.trim import TrimRules


def frontier(**changes: Any) -> FrontierSettings:
    values = {"base_url": "https://api.example/v1", "model": "m", "training_allowed": False}
    return FrontierSettings.model_validate(values | changes)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example/v1",
        "https://api.example:8443/openai/v1/",
        "http://127.0.0.1:8000/v1",
        "http://[::1]:8000/v1",
        "http://localhost/v1",
    ],
)
def test_an_address_that_keeps_the_key_safe(url: str) -> None:
    assert frontier(base_url=url).base_url == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://api.example/v1", "must be https"),
        ("http://10.0.0.1/v1", "must be https"),
        ("http://localhost.example/v1", "must be https"),
        ("ftp://api.example", "address such as"),
        ("api.example/v1", "address such as"),
        ("https://user:key@api.example/v1", "no user"),
        ("https://api.example/v1?key=1", "no query"),
    ],
)
def test_an_address_that_does_not(url: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        frontier(base_url=url)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"api_key_env": "A", "api_key_file": "/x"}, "not both"),
        ({"api_key": "sk-secret"}, "Extra inputs"),
        ({"backoff_s": 9.0}, "max_backoff_s"),
        ({"breaker": {"open_s": 600.0}}, "max_open_s"),
        ({"max_tries": 0}, "greater than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        frontier(**changes)


def test_somebody_has_to_look_the_training_terms_up() -> None:
    with pytest.raises(ValidationError, match="training_allowed"):
        FrontierSettings.model_validate({"base_url": "https://api.example/v1", "model": "m"})


def test_the_rules_of_the_deciders_have_a_setting_each() -> None:
    assert BreakerRules(**frontier().breaker.model_dump())
    assert TrimRules(**TrimSettings().model_dump()) == TrimRules()
    assert not TrimSettings().active
    assert TrimSettings(whitespace=True).active


def test_the_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("  from-file\n")
    by_env = target_of("big", frontier(api_key_env="BIG_KEY"), {"BIG_KEY": "from-env"})
    by_file = target_of("big", frontier(api_key_file=file), {})
    assert (by_env.key, by_file.key) == ("from-env", "from-file")
    assert by_env.url == "https://api.example/v1/chat/completions"
    assert target_of("big", frontier(), {}).key == ""
    assert "from-env" not in repr(by_env)


@pytest.mark.parametrize("content", [b"", b"  \n", b"two\nlines", b"\xffkey"])
def test_a_key_that_is_none_refuses_to_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"frontiers\.big: .*key"):
        target_of("big", frontier(api_key_file=file), {})
    with pytest.raises(ConfigError, match=r"frontiers\.big: \$NOT_SET"):
        target_of("big", frontier(api_key_env="NOT_SET"), {})
    with pytest.raises(ConfigError, match="cannot be read"):
        target_of("big", frontier(api_key_file=tmp_path / "gone"), {})


def test_certificates_that_are_none_refuse_to_start(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    with pytest.raises(ConfigError, match="no certificates"):
        target_of("big", frontier(ca_file=file), {})


def test_a_frontier_without_a_price_refuses_to_start() -> None:
    with pytest.raises(ConfigError, match="no price"):
        FrontierPool({"big": frontier(price="unknown")}, memory_prices(["big"]), ledger=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"enabled": True}, "a directory and a key_file"),
        ({"enabled": True, "directory": "/x"}, "a directory and a key_file"),
        ({"max_total_bytes": 16 << 20}, "at least two segments"),
        ({"max_segment_bytes": 4096, "max_record_bytes": 8192}, "largest record"),
    ],
)
def test_capture_is_off_and_complete_when_on(changes: dict[str, Any], why: str) -> None:
    assert not CaptureSettings().enabled
    with pytest.raises(ValidationError, match=why):
        CaptureSettings.model_validate(changes)
