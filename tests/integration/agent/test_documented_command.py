"""The command that the how-to shows installs, goes back, and may be run again at any time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_runtime.agent.releases import run_command

PYTHON = """#!/bin/sh
# stands for `python3 -m venv FOLDER`
mkdir -p "$3/bin"
printf '#!/bin/sh\\nexit 0\\n' > "$3/bin/pip"
printf '#!/bin/sh\\necho %s\\n' "$(basename "$3")" > "$3/bin/edge-runtime"
chmod +x "$3/bin/pip" "$3/bin/edge-runtime"
"""


@pytest.fixture
def home(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the how-to calls `/opt/edge`, on a box that runs 1.0.0."""
    page = (repository / "docs" / "howto" / "join-a-fleet.md").read_text()
    block = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None
    home = tmp_path / "edge"
    (home / "1.0.0" / "bin").mkdir(parents=True)
    (home / "1.0.0" / "complete").touch()
    (home / "current").symlink_to(home / "1.0.0")
    for path, text in (
        (home / "install", block[1].replace("/opt/edge", str(home))),
        (tmp_path / "python3", PYTHON),
    ):
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return home


async def install(home: Path, version: str, path: str = "/somewhere") -> int | None:
    variables = {"EDGE_UPDATE_VERSION": version, "EDGE_UPDATE_PATH": path}
    ran = await run_command([str(home / "install")], variables, 60.0)
    return ran.status


def links(home: Path) -> tuple[str, str]:
    """The versions that run now and ran before."""
    return (home / "current").resolve().name, (home / "former").resolve().name


async def test_it_installs_goes_back_and_may_be_repeated(home: Path) -> None:
    assert await install(home, "2.0.0") == 0
    assert links(home) == ("2.0.0", "1.0.0")
    assert await install(home, "2.0.0") == 0
    assert links(home) == ("2.0.0", "1.0.0"), "again: the former one is still known"
    assert await install(home, "1.0.0", path="") == 0
    assert links(home) == ("1.0.0", "2.0.0")


async def test_what_was_cut_off_is_begun_anew(home: Path) -> None:
    (home / "2.0.0" / "bin").mkdir(parents=True)
    (home / "2.0.0" / "rubbish").touch()
    assert await install(home, "2.0.0") == 0
    assert not (home / "2.0.0" / "rubbish").exists()
    assert links(home) == ("2.0.0", "1.0.0")
