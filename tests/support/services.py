"""Servers from Debian's packages for tests: started on loopback, ended with the test run."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "test-services"
UNAVAILABLE = 77
_START_S = 60.0


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def service(*arguments: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server in the foreground, once it accepts connections on `port`."""
    process = subprocess.Popen([sys.executable, str(SCRIPT), *arguments], stderr=subprocess.PIPE)
    try:
        _await_port(process, port, arguments[0])
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()


@contextlib.contextmanager
def folder_for_anyone() -> Iterator[Path]:
    """A folder that a server which is not us may enter (pytest's own are private)."""
    folder = Path(tempfile.mkdtemp(prefix="edge-services-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await_port(process: subprocess.Popen[bytes], port: int, name: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace").strip()
            if process.returncode == UNAVAILABLE:
                pytest.skip(f"TESTS WITH {name.upper()} NOT RUN: {said}")
            raise RuntimeError(f"{name} ended with {process.returncode}: {said[-1000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        process_alive(process)
    raise RuntimeError(f"{name} does not listen after {_START_S} s")


def process_alive(process: subprocess.Popen[bytes]) -> None:
    """Wait a moment for the process to end or to go on."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.05)
