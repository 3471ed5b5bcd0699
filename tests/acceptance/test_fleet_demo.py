"""`edge-fleet demo` as a newcomer types it: it needs nothing, shows a rollout, and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMMAND = Path(sys.executable).with_name("edge-fleet")
LIMIT_S = 120.0


def demo(*options: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = [sys.executable, "-c", "from fleet.cli import app; app()"]
    command = [str(COMMAND)] if COMMAND.exists() else source
    return subprocess.run(
        [*command, "demo", *options],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip


def test_a_good_bundle_reaches_every_box_in_waves(tmp_path: Path) -> None:
    done = demo("--boxes", "3", "--speed", "300", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    phases = [line.split(",")[0].split(":")[0] for line in lines if line.startswith("rollout ")]
    assert phases[:3] == ["rollout approved", "rollout running", "rollout baking"]
    assert phases[-1] == "rollout completed"
    assert phases.count("rollout baking") == 3
    assert sum(line.endswith("serves 2.0.0") for line in lines) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_crashes_is_halted_and_rolled_back(tmp_path: Path) -> None:
    done = demo("--flawed", "--speed", "300", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rollout halted, wave 1 of 2: guard broken: 3 of 3 boxes" in done.stdout
    assert "rollout rolled_back" in done.stdout
    assert done.stdout.count("serves 1.0.0") == 5
