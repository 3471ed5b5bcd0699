"""Releases of a daemon, and a command that installs them by noting their version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle.digests import digest_chunks
from edge_runtime.bundle.files import Files, make_dirs
from edge_runtime.bundle.manifest import FileEntry
from edge_runtime.bundle.targets import RELEASE_FILE, Release

SCRIPT = """#!/bin/sh
cd "$(dirname "$0")" || exit 70
echo "$EDGE_UPDATE_VERSION from $EDGE_UPDATE_FROM at ${EDGE_UPDATE_PATH:-nowhere}" >> asked
echo "looking at $EDGE_UPDATE_VERSION"
if [ "$(cat refused)" = "$EDGE_UPDATE_VERSION" ]; then echo "it will not do" >&2; exit 3; fi
cat instead > installed || true
[ -s instead ] || echo "$EDGE_UPDATE_VERSION" > installed
"""


def write_release(files: Files, path: Path, version: str) -> str:
    """A release as a box fetches it, at `path`; its digest."""
    data = f"wheel of {version}".encode()
    found = digest_chunks([data])
    entry = FileEntry(path="d.whl", size=found.size, sha256=found.sha256, blocks=found.blocks)
    document = Release(name="edge-runtime", version=version, files=(entry,)).canonical()
    make_dirs(files, path)
    for name, content in (("d.whl", data), (RELEASE_FILE, document)):
        files.create(path / name)
        files.append(path / name, content)
        files.fsync_file(path / name)
    files.fsync_dir(path)
    return hashlib.sha256(document).hexdigest()


@dataclass(frozen=True)
class Installer:
    """The command's folder: what it was asked for, and what is installed."""

    folder: Path

    @classmethod
    def at(cls, folder: Path, version: str) -> Installer:
        """A new one on a box that runs `version`."""
        folder.mkdir()
        for name, text in (("installed", version), ("refused", ""), ("instead", ""), ("asked", "")):
            (folder / name).write_text(text)
        script = folder / "install.sh"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        return cls(folder)

    @property
    def command(self) -> list[str]:
        """For `agent.update_command`."""
        return [str(self.folder / "install.sh")]

    @property
    def installed(self) -> str:
        """The version that would be started."""
        return (self.folder / "installed").read_text().strip()

    @property
    def asked(self) -> list[str]:
        """Each call, as `VERSION from VERSION at PATH`."""
        return (self.folder / "asked").read_text().splitlines()

    def say(self, name: str, version: str) -> None:
        """Refuse a version, or install it instead of whatever is asked for."""
        (self.folder / name).write_text(version)
