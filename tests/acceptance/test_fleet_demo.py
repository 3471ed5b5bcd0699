"""`edge-fleet demo` as a newcomer types it: it needs nothing, shows a rollout, and ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("edge-fleet")
LIMIT_S = 240.0


def start(*options: str, folder: Path) -> subprocess.Popen[str]:
    source = [sys.executable, "-c", "from fleet.cli import app; app()"]
    command = [str(COMMAND)] if COMMAND.exists() else source
    return subprocess.Popen(
        [*command, "demo", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip


def demo(*options: str, folder: Path) -> list[str]:
    with start(*options, folder=folder) as process:
        said, complaints = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, complaints) == (0, ""), said
    assert list(folder.iterdir()) == []
    return said.splitlines()


def running_in(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def test_a_good_bundle_reaches_every_box_in_waves_and_no_request_fails(tmp_path: Path) -> None:
    lines = demo("--boxes", "3", "--speed", "300", folder=tmp_path)
    phases = [line.split(",")[0].split(":")[0] for line in lines if line.startswith("rollout ")]
    assert phases[:3] == ["rollout approved", "rollout running", "rollout baking"]
    assert phases[-1] == "rollout completed"
    assert phases.count("rollout baking") == 3
    assert sum(line.endswith("serves 2.0.0") for line in lines) == 4
    assert "demo~daemon serves 2.0.0" in lines
    (asked,) = (line for line in lines if line.startswith("the daemon was asked"))
    assert re.search(r"\d+ by demo@1\.0\.0, \d+ by demo@2\.0\.0; 0 failed", asked), asked
    assert any(line.startswith("the console is at http://127.0.0.1:") for line in lines)


def test_a_bundle_that_every_box_refuses_is_halted_and_rolled_back(tmp_path: Path) -> None:
    lines = demo("--flawed", "--speed", "300", folder=tmp_path)
    told = "\n".join(lines)
    assert re.search(r"rollout halted, wave 1 of 2: guard broken: \d of \d boxes", told), told
    assert "rollout rolled_back" in told
    assert told.count("serves 1.0.0") == 6
    (asked,) = (line for line in lines if line.startswith("the daemon was asked"))
    assert "demo@2.0.0" not in asked
    assert asked.endswith("; 0 failed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_and_its_daemon(tmp_path: Path, number: signal.Signals) -> None:
    with start("--stay", "--boxes", "1", folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("the daemon answers"):
                break
        assert running_in(tmp_path)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, complaints) == (0, "")
    assert running_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
