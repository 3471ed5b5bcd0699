"""Settings documents: what activating one means on this box.

Rules
- A document is opened, checked together with the box's own settings and the fleet's other
  documents, and the daemon's parts prepared for it, before anything counts. One that is refused
  changes nothing.
- Then its pointer moves on the disk, then it counts: what a start reads and what runs agree.
- What cannot change while requests run counts from the next start, and is named in reports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from edge_runtime.agent.overlay import (
    MAX_BYTES,
    NONE,
    SHELF,
    kept_documents,
    layered,
    parse_overlay,
)
from edge_runtime.agent.shelf import DocumentShelf, open_documents
from edge_runtime.bundle.files import Files
from edge_runtime.config import Settings
from edge_runtime.config_file import parse_settings
from edge_runtime.errors import BundleError, EdgeError
from edge_runtime.router.live import differing

log: Final = structlog.get_logger("edge_runtime.agent")


class SettingsChange(Protocol):
    """Settings that were checked and may count at once."""

    @property
    def at_next_start(self) -> tuple[str, ...]:
        """Keys that cannot change while the daemon runs."""

    def commit(self) -> None:
        """Let them count from the next request on. On the event loop."""

    async def abort(self) -> None:
        """Give them up; nothing changed."""


class LiveSettings(Protocol):
    """The serving side of settings. See `router.live.Routing`."""

    async def prepare(self, wanted: Settings) -> SettingsChange:
        """Check settings as a whole and open what they need. Raises `EdgeError`."""


@dataclass(frozen=True, slots=True)
class AtNextStart:
    """For a box whose settings count from the next start only; it runs with `running`."""

    running: Settings
    at_next_start: tuple[str, ...] = ()

    async def prepare(self, wanted: Settings) -> AtNextStart:
        """See `LiveSettings`."""
        return replace(self, at_next_start=differing(self.running, wanted))

    def commit(self) -> None:
        """Nothing changes while it runs."""

    async def abort(self) -> None:
        """Nothing was opened."""


@dataclass(slots=True)
class SettingsDocuments:
    """See the module. `own` are the settings of the box's own file.

    `open_signed` gives the payload of an envelope that a settings key signed. `counted` hears of
    settings that count, `waiting` when some do only from the next start; `at_next_start` names
    these.
    """

    own: Settings
    open_signed: Callable[[bytes], bytes]
    directory: Path
    files: Files
    live: LiveSettings
    counted: Callable[[Settings], None] = lambda settings: None
    waiting: Callable[[], None] = lambda: None
    at_next_start: tuple[str, ...] = ()

    async def prepare(self, name: str, path: Path, before: Path) -> Settling:
        """See `shelf.Prepare`. Raises `BundleError` for a document that does not fit."""
        wanted = await asyncio.to_thread(self._with, name, path)
        try:
            return Settling(self, name, wanted, await self.live.prepare(wanted))
        except (EdgeError, OSError) as error:
            raise BundleError(f"settings {name}", str(error)) from error

    def _with(self, name: str, path: Path) -> Settings:
        data = self.files.read(path, MAX_BYTES + 1)
        document = parse_overlay(data if data == NONE else self.open_signed(data))
        documents = kept_documents(self.directory, self.files)
        _, before = layered(self.own, parse_settings, documents)
        return self._fitting(name, {**documents, name: document}, before)

    def _fitting(
        self, name: str, documents: dict[str, dict[str, Any]], before: dict[str, str]
    ) -> Settings:
        """The settings with all documents; the new one must fit, and leave the others fitting."""
        wanted, left_out = layered(self.own, parse_settings, documents)
        for other, reason in left_out.items():
            if other == name:
                raise BundleError(f"settings {name}", reason)
            if other not in before:
                raise BundleError(f"settings {name}", f"{other} would not fit any more: {reason}")
        return wanted

    async def settle(self) -> None:
        """Let what the pointers name count, after the shelf was put in order at a start."""
        documents = await asyncio.to_thread(kept_documents, self.directory, self.files)
        wanted, _ = layered(self.own, parse_settings, documents)
        try:
            change = await self.live.prepare(wanted)
        except (EdgeError, OSError) as error:
            # The box stays in its fleet, which may send better ones.
            log.warning(
                "the fleet's settings do not count", action="settings_lost", reason=str(error)
            )
            return
        change.commit()
        self.at_next_start = change.at_next_start


@dataclass(slots=True)
class Settling:
    """A document that fits, and the daemon's parts prepared for it."""

    documents: SettingsDocuments
    name: str
    wanted: Settings
    change: SettingsChange

    async def commit(self) -> None:
        """The pointer moved: it counts."""
        self.change.commit()
        self.documents.counted(self.wanted)
        waiting = self.documents.at_next_start = self.change.at_next_start
        log.info("settings count", action="settings_kept", name=self.name, at_next_start=waiting)
        if waiting:
            self.documents.waiting()

    async def abort(self) -> None:
        """The pointer did not move."""
        await self.change.abort()


def settings_shelf(directory: Path, files: Files, documents: SettingsDocuments) -> DocumentShelf:
    """The shelf of settings documents; `directory` is the agent's. Blocks on the disk."""
    return open_documents(directory / SHELF, files, documents.prepare, origin=NONE)
