"""`make run`, the second time: no network, an address, two lines that work when pasted."""

from __future__ import annotations

import ipaddress
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 120.0

pytestmark = [
    pytest.mark.skipif(
        Path(sys.prefix) != ROOT / ".venv",
        reason="make run sets up .venv; call `make test-runtime` to run this in it",
    ),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Run:
    """One `make run` with every way to the network shut for pip, and the lines it prints."""

    def __init__(self) -> None:
        self.port = free_port()
        self.started = time.monotonic()
        shut = "http://127.0.0.1:9"
        self.process = subprocess.Popen(
            ["make", "run", f"PORT={self.port}"],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
            | {
                "PIP_NO_INDEX": "1",
                "http_proxy": shut,
                "https_proxy": shut,
                "no_proxy": "127.0.0.1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="make-run-output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def until(self, last: str) -> list[str]:
        """Return the lines up to the one that begins with `last`."""
        seen: list[str] = []
        while True:
            left = READY_TIMEOUT_S - (time.monotonic() - self.started)
            try:
                line = self._lines.get(timeout=max(left, 0.1))
            except queue.Empty:
                pytest.fail(f"not ready after {READY_TIMEOUT_S} s:\n" + "\n".join(seen))
            if line is None:
                pytest.fail("make run ended:\n" + "\n".join(seen))
            seen.append(line)
            if line.startswith(last):
                return seen

    def members(self) -> list[int]:
        """Return the processes of this run."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.getpgid(int(entry.name)) == self.process.pid:
                        found.append(int(entry.name))
                except ProcessLookupError:
                    continue
        return found

    def stop(self) -> int:
        """Do what Ctrl-C does in a terminal: interrupt the whole group. Return make's status."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        finally:
            self._reader.join(timeout=60)  # the output ends with the last process
            if self.process.stdout is not None:
                self.process.stdout.close()


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    running = Run()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def transcript(run: Run) -> list[str]:
    return run.until("Ctrl-C")


def peers(pids: list[int]) -> set[str]:
    """Return the remote addresses of every TCP and UDP socket that `pids` hold."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").rstrip("]"))
            except FileNotFoundError:
                continue
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                found.add(address_of(fields[2]))
    return found


def address_of(field: str) -> str:
    """Read `0100007F:1F90`: words of the address in the machine's byte order."""
    words = bytes.fromhex(field.partition(":")[0])
    swapped = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    return str(ipaddress.ip_address(swapped))


def test_it_prints_the_address_and_two_lines(run: Run, transcript: list[str]) -> None:
    text = "\n".join(transcript)
    assert f"ready on http://127.0.0.1:{run.port}" in text
    for model in ("assistant", "intent-clinc150", "minilm-l6"):
        assert model in text
    assert len([line for line in transcript if line.startswith("curl ")]) == 2


def test_nothing_is_built_or_fetched_again(transcript: list[str]) -> None:
    assert not [line for line in transcript if re.search(r"installing|pip|edge-export", line)]


def test_both_lines_work_when_pasted(transcript: list[str]) -> None:
    by_path = {}
    for line in transcript:
        path = re.match(r"curl .*(/v1/[a-z/]+)", line)
        if path is None:
            continue
        done = subprocess.run(
            ["bash", "-c", line.replace("curl ", "curl --fail ", 1)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        by_path[path[1]] = json.loads(done.stdout)
    assert by_path["/v1/classify"]["data"][0]["label"] == "balance"
    parsed = json.loads(by_path["/v1/chat/completions"]["choices"][0]["message"]["content"])
    assert parsed["intent"] == "PlayMusic"
    assert {"slot": "artist", "text": "miles davis"} in parsed["slots"]


def test_it_speaks_to_nobody(run: Run, transcript: list[str]) -> None:
    members = run.members()
    assert transcript
    assert len(members) >= 2
    inside = {"0.0.0.0", "::"}
    assert not [
        peer
        for peer in peers(members)
        if peer not in inside and not ipaddress.ip_address(peer).is_loopback
    ]


def test_readme_shows_the_lines_that_are_printed(run: Run, transcript: list[str]) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for line in transcript:
        if line.startswith("curl "):
            assert line.replace(f":{run.port}", ":8080") in readme


def test_an_address_in_use_is_said_at_once(run: Run, transcript: list[str]) -> None:
    assert transcript
    done = subprocess.run(
        ["make", "run", f"PORT={run.port}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=READY_TIMEOUT_S,
        check=False,
    )
    assert done.returncode != 0
    assert str(run.port) in done.stdout + done.stderr
    assert "Ctrl-C" not in done.stdout
