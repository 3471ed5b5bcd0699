"""A release of the daemon that does not come up: its starts are counted, and it is taken back.

Rules
- While a release is on trial, every start is counted on the disk before anything else is tried,
  and the count goes once the agent runs: from then on the agent's own rules judge.
- Too many starts that ended before that, or an operator's (service manager's) word, and the
  release is condemned: the record says so first, then the former one is installed, then its
  pointer moves. Cut off anywhere, the next start goes on from there.
- A box whose disk or credential cannot be read starts as if there were no trial: nothing in here
  keeps a box from serving.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from edge_runtime import __version__
from edge_runtime.agent.credential import CredentialStore
from edge_runtime.agent.decide import ItemRecord
from edge_runtime.agent.protocol import BoxState, Failure, FailureCode, FailureKind
from edge_runtime.agent.record import BoxRecord, RecordStore
from edge_runtime.agent.releases import KEY, PROGRAM, Releases, RunCommand, as_found, run_command
from edge_runtime.agent.settings import AgentSettings
from edge_runtime.agent.shelf import DocumentShelf, open_documents
from edge_runtime.bundle.activation import Refused
from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.files import Files, RealFiles, exists, make_dirs, write_atomically
from edge_runtime.config import Settings
from edge_runtime.errors import ConfigError, EngineError

log: Final = structlog.get_logger("edge_runtime.agent")

FOLDER: Final = "releases"
_STARTS: Final = "starts.json"
_ON_TRIAL: Final = frozenset({BoxState.ACTIVATING, BoxState.PROBATION, BoxState.REVERTING})


@dataclass(slots=True)
class Trial:
    """See the module. `directory` is the agent's. All but `take_back` block on the disk."""

    directory: Path
    files: Files
    options: AgentSettings
    running: str = __version__
    run: RunCommand = run_command

    def _load(self) -> BoxRecord | None:
        try:
            held = CredentialStore(self.directory / "credential", self.files).load()
        except ConfigError:
            return None
        if held is None or held.grant is None:
            return None
        return RecordStore(self.directory, self.files).load(held.grant.principal)

    def started(self) -> int:
        """Count a start; how many there were of the release on trial, 0 when none is."""
        record = self._load()
        item = None if record is None else _on_trial(record)
        if item is None:
            return 0
        starts = self._starts(item) + 1
        make_dirs(self.files, self._path.parent)
        data = canonical_bytes({"generation": item.generation, "starts": starts})
        write_atomically(self.files, self._path, data)
        return starts

    def came_up(self) -> None:
        """The agent runs: what it sees counts from now on."""
        self._forget()

    def _forget(self) -> None:
        if exists(self.files, self._path):
            self.files.unlink(self._path)
            self.files.fsync_dir(self._path.parent)

    @property
    def _path(self) -> Path:
        return self.directory / FOLDER / _STARTS

    def _starts(self, item: ItemRecord) -> int:
        try:
            found = parse_strict(self.files.read(self._path, 4096))
        except (OSError, ValueError):
            return 0
        if not isinstance(found, dict) or found.get("generation") != item.generation:
            return 0
        starts = found.get("starts")
        return starts if isinstance(starts, int) else 0

    async def take_back(self, reason: str) -> bool:
        """Install the release before the one on trial; False when none is on trial.

        Raises `EngineError` when that fails: somebody has to look.
        """
        record = await asyncio.to_thread(self._load)
        item = None if record is None else _on_trial(record)
        if record is None or item is None:
            return False
        failure = Failure(kind=FailureKind.REVERTED, code=FailureCode.CRASHES, reason=reason[:300])
        condemned = item.condemned or failure
        update = {"state": BoxState.REVERTING, "condemned": condemned, "deferral": None}
        stored = record.with_item(item.model_copy(update=update))
        await asyncio.to_thread(RecordStore(self.directory, self.files).save, stored)
        await self._install_former(item)
        await asyncio.to_thread(self._forget)  # the former one's starts are its own
        return True

    async def _install_former(self, item: ItemRecord) -> None:
        releases = Releases(
            self.options.update_command,
            self.files,
            self.running,
            end=None,
            timeout_s=self.options.update_timeout_s,
            run=self.run,
        )
        shelf = await asyncio.to_thread(release_shelf, self.directory, self.files, releases)
        pointer = (await asyncio.to_thread(shelf.holdings)).active.get(PROGRAM)
        if pointer is None:
            return  # the command never ran
        if pointer.bundle_digest != item.item.digest:
            # Its pointer never moved: the command may have run all the same.
            serves = shelf.directory(pointer.bundle_digest)
            await releases.put_back(serves, "the release did not come up")
            return
        outcome = await shelf.revert(PROGRAM)
        if isinstance(outcome, Refused):
            raise EngineError(f"the former release could not be installed: {outcome.reason}")


def release_shelf(directory: Path, files: Files, releases: Releases) -> DocumentShelf:
    """The shelf of daemon releases; `directory` is the agent's. Blocks on the disk."""
    return open_documents(
        directory / FOLDER,
        files,
        releases.prepare,
        origin=as_found(releases.running),
        check=releases.check,
    )


def _on_trial(record: BoxRecord) -> ItemRecord | None:
    item = record.items.get(KEY)
    return item if item is not None and item.state in _ON_TRIAL else None


def trial_of(settings: Settings) -> Trial:
    """The trial of the box with these settings."""
    directory = settings.agent.directory(settings.store.path)
    return Trial(directory, RealFiles(), settings.agent)


async def guard_start(trial: Trial) -> None:
    """Count this start of the daemon, or take back a release that never comes up.

    Raises `EngineError` after it was taken back: what runs now is not what is installed.
    """
    if not trial.options.enabled:
        return
    try:
        starts = await asyncio.to_thread(trial.started)
    except OSError as error:
        log.warning("start not counted", action="trial_unread", reason=str(error))
        return
    if starts <= trial.options.update_max_starts:
        return
    reason = f"{starts - 1} starts of it ended before it was back in the fleet"
    if await trial.take_back(reason):
        raise EngineError(f"the new release was taken back ({reason}): start the daemon again")
