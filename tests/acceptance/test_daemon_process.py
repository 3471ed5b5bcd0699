"""The daemon as its operator runs it: one process, from start to SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support.served import build_decoder, build_encoder, install, make_settings

START_S = 60.0
STOP_S = 20.0
COMMAND = Path(sys.executable).with_name("edge-runtime")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("daemon")
    settings = make_settings(root / "store")
    install(settings, [build_decoder(root), build_encoder(root)])
    return settings.store.path


class Daemon:
    """`edge-runtime serve` on a free port."""

    def __init__(self, store: Path, log: Path, **settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        environment = os.environ | {"EDGE_SERVER__PORT": str(self.port), **settings}
        source = [sys.executable, "-c", "from edge_runtime.cli import app; app()"]
        command = [str(COMMAND)] if COMMAND.exists() else source
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, "serve", "--store", str(store)], env=environment, stderr=errors
            )

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 while nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()
        except OSError:
            return 0, ""

    def until_ready(self) -> list[int]:
        """The statuses that `/health` gave, in order, up to the first 200."""
        seen: list[int] = []
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            status, _ = self.get("/health")
            if not seen or seen[-1] != status:
                seen.append(status)
            if status == 200:
                return seen
        raise AssertionError(f"not ready after {START_S} s, health said {seen}")

    def post(self, path: str, body: dict[str, Any]) -> HTTPConnection:
        """Send a request and leave its answer to be read."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", path, json.dumps(body))
        return connection

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM; the exit status and the seconds it took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S), time.monotonic() - started


@pytest.fixture
def daemon(store: Path, tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(store, tmp_path / "log")
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


LONG = {
    "model": "tiny",
    "prompt": "abc",
    "max_tokens": 100,
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
}


def test_it_starts_answers_and_stops(daemon: Daemon) -> None:
    assert daemon.until_ready()[-1] == 200
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    connection = daemon.post("/v1/chat/completions", body)
    answer = json.loads(connection.getresponse().read())
    assert answer["usage"]["completion_tokens"] <= 5
    assert answer["edge"]["answered_by"] == "tiny@1"
    connection.close()
    assert 'edge_sequences_total{finish_reason="length",model="tiny"}' in daemon.get("/metrics")[1]
    assert daemon.stop()[0] == 0
    assert "Traceback" not in daemon.log.read_text()


def test_health_is_503_with_a_reason_until_models_are_there(store: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    made = Daemon(empty, tmp_path / "log")
    try:
        end = time.monotonic() + START_S
        status, body = made.get("/health")
        while (status == 0 or "being loaded" in body) and time.monotonic() < end:
            assert made.process.poll() is None, made.log.read_text()
            status, body = made.get("/health")
        assert status == 503
        assert "edge-runtime install" in body
        assert made.stop()[0] == 0
    finally:
        made.process.kill()
        made.process.wait()


def test_a_stream_in_progress_ends_well_after_sigterm(daemon: Daemon) -> None:
    daemon.until_ready()
    # More sequences than slots: some still wait for theirs when the signal comes.
    connection = daemon.post("/v1/completions", {**LONG, "n": 24})
    response = connection.getresponse()
    first = response.readline()
    assert first.startswith(b"data: ")
    daemon.process.send_signal(signal.SIGTERM)
    rest = response.read().decode()
    connection.close()
    events = [json.loads(line[6:]) for line in rest.splitlines() if line.startswith("data: {")]
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert [reason for reason in reasons if reason] == ["length"] * 24
    assert rest.rstrip().endswith("data: [DONE]")
    assert daemon.process.wait(STOP_S) == 0


def test_a_client_that_never_reads_does_not_keep_it_alive(store: Path, tmp_path: Path) -> None:
    made = Daemon(store, tmp_path / "log", EDGE_SERVER__DRAIN_TIMEOUT_S="0.2")
    try:
        made.until_ready()
        connections = [made.post("/v1/completions", {**LONG, "n": 16}) for _ in range(8)]
        connections[0].getresponse().readline()
        status, seconds = made.stop()
        assert status == 0
        assert seconds < STOP_S
        for connection in connections:
            connection.close()
    finally:
        made.process.kill()
        made.process.wait()


def test_settings_that_cannot_be_used_refuse_to_start(store: Path, tmp_path: Path) -> None:
    made = Daemon(store, tmp_path / "log", EDGE_SERVER__MAX_BODY_BYTES="0")
    assert made.process.wait(START_S) == 1
    assert "max_body_bytes" in made.log.read_text()


def test_a_second_daemon_on_one_store_is_told_so(daemon: Daemon, store: Path) -> None:
    daemon.until_ready()
    other = Daemon(store, daemon.log.with_name("second"))
    assert other.process.wait(START_S) == 1
    assert "store" in other.log.read_text()
    assert daemon.get("/health")[0] == 200
