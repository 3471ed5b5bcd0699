"""What activating a settings document or a daemon release means on this box."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from edge_runtime.agent.overlay import FOLDER, MAX_BYTES, over_settings, parse_overlay
from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.files import Files, exists, make_dirs, write_atomically
from edge_runtime.config import Settings
from edge_runtime.config_file import parse_settings
from edge_runtime.errors import BundleError, EngineError, UsageError

log: Final = structlog.get_logger("edge_runtime.agent")

UPDATE_TIMEOUT_S: Final = 1800.0


@dataclass(slots=True)
class SettingsDocuments:
    """Opens, checks and keeps settings documents; they count from the daemon's next start.

    `open_signed` gives the payload of an envelope that a settings key signed. `changed` is told
    when something new was kept.
    """

    settings: Settings
    open_signed: Callable[[bytes], bytes]
    directory: Path
    files: Files
    changed: Callable[[], None] = lambda: None

    async def apply(self, name: str, path: Path) -> None:
        """See `shelf.Apply`. Raises `BundleError` for a document that does not fit."""
        if await asyncio.to_thread(self._apply, name, path):
            log.info("settings kept", action="settings_kept", name=name)
            self.changed()

    def _apply(self, name: str, path: Path) -> bool:
        document = parse_overlay(self.open_signed(self.files.read(path, MAX_BYTES + 1)))
        over_settings(self.settings, parse_settings, document)
        target = self.directory / FOLDER / f"{name}.json"
        data = canonical_bytes(document)
        if exists(self.files, target) and self.files.read(target, MAX_BYTES + 1) == data:
            return False
        make_dirs(self.files, target.parent)
        write_atomically(self.files, target, data)
        return True


@dataclass(slots=True)
class Releases:
    """Hands a verified release of the daemon to the command that installs it."""

    command: Sequence[str]
    timeout_s: float = UPDATE_TIMEOUT_S

    async def apply(self, name: str, path: Path) -> None:
        """See `shelf.Apply`: run the command with the name and the folder of the release.

        Raises `UsageError` without a command, `BundleError` when it refuses (status 1 to 63),
        `EngineError` when it fails otherwise or takes too long.
        """
        if not self.command:
            raise UsageError("this box has no agent.update_command to install releases with")
        process = await asyncio.create_subprocess_exec(
            *self.command, name, str(path), stdin=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(self.timeout_s):
                status = await process.wait()
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise EngineError(f"{self.command[0]} took longer than {self.timeout_s} s") from error
        if 0 < status < 64:
            raise BundleError(name, f"{self.command[0]} refused it with status {status}")
        if status:
            raise EngineError(f"{self.command[0]} failed with status {status}")
