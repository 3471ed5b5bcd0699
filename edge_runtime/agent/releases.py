"""Releases of the daemon: handed to the command that installs them, and taken back by it.

Rules
- A release was verified and lies whole on the disk before the command sees it.
- The command installs and does not restart: when it succeeded, the pointer moves, and the daemon
  ends in order, so that the service manager starts what was installed. Until then nothing on
  this box says that the new release serves.
- A command that failed may have left anything. The release that served is installed again.
- The command may be killed and run again at any time, and for a release that is there already.
- The version that runs is held against the release's: an install that installed something else
  is taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from edge_runtime.agent.protocol import ItemKind
from edge_runtime.agent.shelf import Shelf
from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.files import FileKind, Files
from edge_runtime.bundle.targets import MAX_DOCUMENT_BYTES, RELEASE_FILE, parse_release
from edge_runtime.errors import BundleError, EngineError, UsageError

log: Final = structlog.get_logger("edge_runtime.agent")

PROGRAM: Final = "edge-runtime"
KEY: Final = f"{ItemKind.DAEMON}/{PROGRAM}"
OUTPUT_LINES: Final = 40
OUTPUT_LINE_BYTES: Final = 400
PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""Variables of the daemon the command gets too; its keys and tokens are none of them."""
_AS_FOUND: Final = "edge-runtime/as-found/1"


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended: its status (None: it took too long), and the end of its output."""

    status: int | None
    output: str

    @property
    def why(self) -> str:
        """For people."""
        last = self.output.rpartition("\n")[2]
        ended = "took too long" if self.status is None else f"ended with status {self.status}"
        return f"{ended}: {last}" if last else ended


RunCommand = Callable[[Sequence[str], Mapping[str, str], float], Awaitable[Ran]]
"""Runs a program with these variables for at most so many seconds."""


async def run_command(
    command: Sequence[str], variables: Mapping[str, str], timeout_s: float
) -> Ran:
    """Run a program in a process group of its own, which does not outlive this call.

    Raises `UsageError` when it cannot be started.
    """
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**passed, **variables},
            start_new_session=True,
        )
    except OSError as error:
        raise UsageError(f"agent.update_command cannot be run: {error}") from error
    tail: deque[str] = deque(maxlen=OUTPUT_LINES)
    status: int | None = None
    try:
        async with asyncio.timeout(timeout_s):
            await _read(process, tail)
            status = await process.wait()
    except TimeoutError:
        log.warning("took too long", action="update_timeout", timeout_s=timeout_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return Ran(status, "\n".join(tail))


async def _read(process: asyncio.subprocess.Process, tail: deque[str]) -> None:
    """Keep the last lines; a line of any length takes no more room than `OUTPUT_LINE_BYTES`."""
    assert process.stdout is not None
    line = b""
    while block := await process.stdout.read(4096):
        *whole, line = (line + block).split(b"\n")
        tail.extend(_printable(one) for one in whole)
        line = line[:OUTPUT_LINE_BYTES]
    if line:
        tail.append(_printable(line))


def _printable(line: bytes) -> str:
    text = line[:OUTPUT_LINE_BYTES].decode(errors="replace")
    return "".join(char if char.isprintable() else " " for char in text).rstrip()


def as_found(version: str) -> bytes:
    """Stands for the daemon a box had before the fleet's first release of it."""
    return canonical_bytes({"schema": _AS_FOUND, "version": version})


def version_of(files: Files, path: Path) -> str:
    """The version of a release that is kept at `path`. Raises `BundleError`. Blocks."""
    try:
        if files.stat(path).kind is FileKind.DIRECTORY:
            return parse_release(files.read(path / RELEASE_FILE, MAX_DOCUMENT_BYTES + 1)).version
        found = parse_strict(files.read(path, MAX_DOCUMENT_BYTES + 1))
    except (OSError, ValueError) as error:
        raise BundleError(path.name[:12], f"is no release: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != _AS_FOUND:
        raise BundleError(path.name[:12], "is no release")
    return str(found["version"])


@dataclass(slots=True)
class Releases:
    """See the module. `running` is the version of this daemon, `end` asks it to end in order.

    `end` None: this process is not the daemon. `end_s` bounds the wait for the end.
    """

    command: Sequence[str]
    files: Files
    running: str
    end: Callable[[], None] | None
    timeout_s: float = 1800.0
    end_s: float = 600.0
    run: RunCommand = run_command
    _never: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self, name: str) -> None:
        """Refuse what this box cannot install, before a byte of it is fetched.

        Raises `UsageError`.
        """
        if name != PROGRAM:
            raise UsageError(f"this box installs releases of {PROGRAM} only, not of {name}")
        if not self.command:
            raise UsageError(
                "this box has no command to install releases with: set agent.update_command"
            )

    async def prepare(self, name: str, path: Path, before: Path) -> Installed:
        """See `shelf.Prepare`: install the release at `path`, the one at `before` if that fails.

        Raises `BundleError` when it was not installed and what served is, `EngineError` when
        nobody knows what is installed.
        """
        self.check(name)
        ran = await self._install(path)
        if ran.status == 0:
            return Installed(self, before)
        version = await asyncio.to_thread(version_of, self.files, path)
        problem = f"installing {version}: {self.command[0]} {ran.why}"
        await self.put_back(before, problem)
        raise BundleError(PROGRAM, f"{problem}; the former release was installed again")

    async def put_back(self, before: Path, problem: str) -> None:
        """Install what served. Raises `EngineError` when that fails as well."""
        ran = await self._install(before)
        if ran.status != 0:
            raise EngineError(f"{problem}; installing the former release {ran.why}")

    async def _install(self, path: Path) -> Ran:
        version = await asyncio.to_thread(version_of, self.files, path)
        stat = await asyncio.to_thread(self.files.stat, path)
        folder = str(path) if stat.kind is FileKind.DIRECTORY else ""
        variables = {
            "EDGE_UPDATE_VERSION": version,
            "EDGE_UPDATE_PATH": folder,
            "EDGE_UPDATE_FROM": self.running,
        }
        log.info("installing", action="update_begun", version=version, command=self.command[0])
        ran = await self.run(self.command, variables, self.timeout_s)
        write = log.info if ran.status == 0 else log.error
        write("installed" if ran.status == 0 else "not installed", action="update_ended",
              version=version, status=ran.status, output=ran.output)  # fmt: skip
        return ran

    async def leave(self) -> None:
        """End the daemon, if this is it. Raises `EngineError` when nothing ends it."""
        if self.end is None:
            return
        self.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.end_s):
                await self._never.wait()
        raise EngineError("the daemon was told to end for another release and goes on: restart it")

    def mismatch(self, path: Path) -> str:
        """Why what runs is not the release at `path`; empty when it is. Blocks on the disk."""
        version = version_of(self.files, path)
        if version == self.running:
            return ""
        return f"the daemon that came up is {self.running}, the release is {version}"


def mismatch_of(releases: Releases | None, shelf: Shelf | None) -> Callable[[str], str]:
    """For `watch.Watch`: why the daemon that runs is not what its pointer named at the start.

    Blocks on the disk.
    """
    pointer = None if shelf is None else shelf.holdings().active.get(PROGRAM)
    if releases is None or shelf is None or pointer is None:
        return lambda key: ""
    found = releases.mismatch(shelf.directory(pointer.bundle_digest))
    return lambda key: found if key == KEY else ""


@dataclass(slots=True)
class Installed:
    """A release that is on the disk; what runs is still the one before it."""

    releases: Releases
    before: Path

    async def commit(self) -> None:
        """The pointer moved: end, so that it is started."""
        await self.releases.leave()

    async def abort(self) -> None:
        """The pointer did not move: install what it names."""
        await self.releases.put_back(self.before, "its pointer could not be moved")
