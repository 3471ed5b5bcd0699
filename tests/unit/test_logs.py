"""Log lines: machine-readable, and without what callers sent."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from edge_runtime.config import LogSettings
from edge_runtime.logs import configure_logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def fail(secret: str) -> None:
    raise RuntimeError(f"broken after {len(secret)} characters")


def test_json_lines_have_an_action_and_tracebacks_without_locals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs(LogSettings(format="json"))
    log = structlog.get_logger("test")
    try:
        fail("the " + "prompt")  # in two parts: tracebacks show source lines
    except RuntimeError:
        log.exception("failed", action="request_failed", n=1)
    log.debug("too small to be seen")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert (entry["action"], entry["n"], entry["level"]) == ("request_failed", 1, "error")
    assert "RuntimeError: broken" in entry["exception"]
    assert "the prompt" not in captured.err
    assert entry["timestamp"].endswith("Z")


def test_console_lines_respect_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogSettings(format="console", level="warning"))
    log = structlog.get_logger("test")
    log.info("not this", action="a")
    log.warning("but this", action="b")
    text = capsys.readouterr().err
    assert "not this" not in text
    assert "but this" in text
