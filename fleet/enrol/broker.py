"""Who may connect to the broker and speak on which topics, as mosquitto's files.

Rules
- All files are made from the database, whole, and replaced by rename; a half-written file is
  never there. After that the broker is told to read them again.
- Where boxes show certificates, the list of those that were ended is one of the files. A broker
  that finds its list too old lets nobody in, so the control host signs it again every day.
- A box may read `want`, `do` and `ack` and write `have`, `link`, `log` and `t/<stream>` under its
  own user name and nowhere else. A broker cannot check the shard in a topic; the receiver does.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from edge_runtime.agent.protocol import DOWN, PREFIX, UP, Channel
from edge_runtime.errors import ConfigError

log = structlog.get_logger(__name__)

Passwords = Mapping[str, str]
"""User name to hash, as `mosquitto_hash` makes it."""

_RELOAD_TIMEOUT_S: Final = 10.0


class Credentials(Protocol):
    """Where the broker learns who may connect."""

    async def update(self, passwords: Passwords, revocations: str | None = None) -> None:
        """Let in exactly these users from now on. Raises `ConfigError` when that failed.

        `revocations` is the signed list of ended certificates, where boxes show such.
        """


class MemoryCredentials:
    """The in-memory twin: remembers what it was told last."""

    def __init__(self) -> None:
        self.passwords: dict[str, str] = {}
        self.revocations: str | None = None
        self.updates = 0

    async def update(self, passwords: Passwords, revocations: str | None = None) -> None:
        """Remember."""
        self.passwords, self.revocations = dict(passwords), revocations
        self.updates += 1


def password_file(passwords: Passwords) -> str:
    """One `user:hash` a line, in the order of users. Raises `ConfigError` for a broken name."""
    for user, hashed in passwords.items():
        if not user.isprintable() or ":" in user or not hashed.startswith("$7$"):
            raise ConfigError(f"{user!r} cannot stand in a password file")
    return "".join(f"{user}:{hashed}\n" for user, hashed in sorted(passwords.items()))


def acl_file(control_user: str) -> str:
    """The access rules for every box there is or will be, and for the control host."""
    lines = ["# Written by edge-fleet. What a user may do follows from its name (%u).", ""]
    lines += [f"user {control_user}", f"topic readwrite {PREFIX}/#", ""]
    lines += [f"pattern read {PREFIX}/+/%u/{channel}" for channel in DOWN]
    lines += [
        f"pattern write {PREFIX}/+/%u/{channel}{'/+' if channel is Channel.TELEMETRY else ''}"
        for channel in UP
    ]
    return "\n".join(lines) + "\n"


Reload = Callable[[], Awaitable[None]]


@dataclass
class MosquittoFiles:
    """Keeps mosquitto's files in step. `reload` makes it read them again.

    Without `crl_path` ended certificates are in no file: the broker lets them in, and what they
    say is thrown away by ingest.
    """

    passwords_path: Path
    acl_path: Path
    control_user: str
    control_hash: str
    reload: Reload
    crl_path: Path | None = None

    async def update(self, passwords: Passwords, revocations: str | None = None) -> None:
        """Replace the files and reload; one call at a time."""
        everybody = {**passwords, self.control_user: self.control_hash}
        await asyncio.to_thread(self._write, everybody, revocations)
        await self.reload()

    def _write(self, passwords: Passwords, revocations: str | None) -> None:
        if self.crl_path is not None and revocations is not None:
            write_atomically(self.crl_path, revocations, 0o644)
        write_atomically(self.acl_path, acl_file(self.control_user))
        write_atomically(self.passwords_path, password_file(passwords))


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file so that a reader sees the old or the new one, also after a power cut.

    Owner, group and permissions of a file that is there already are kept, so that a broker that
    runs as somebody else can go on reading it.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        made = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(made, "w") as file:
            if path.exists():
                before = path.stat()
                os.fchmod(file.fileno(), before.st_mode & 0o777)
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise ConfigError(f"{path}: {error.strerror}; the broker keeps its old file") from error


def reload_by_signal(pid_file: Path) -> Reload:
    """SIGHUP to the process whose id `pid_file` holds; a broker that is not there reads later."""

    async def reload() -> None:
        try:
            text = await asyncio.to_thread(pid_file.read_text)
            os.kill(int(text.strip()), signal.SIGHUP)
        except (FileNotFoundError, ProcessLookupError) as error:
            log.warning("broker is not running", action="broker.reload", error=str(error))
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"{pid_file}: the broker cannot be told to reload: {error}"
            ) from error

    return reload


def reload_by_command(command: list[str]) -> Reload:
    """Run a program, without a shell, such as `systemctl reload mosquitto`."""

    async def reload() -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL
            )
            async with asyncio.timeout(_RELOAD_TIMEOUT_S):
                status = await process.wait()
        except (OSError, TimeoutError) as error:
            raise ConfigError(
                f"{command[0]}: the broker cannot be told to reload: {error}"
            ) from error
        if status != 0:
            raise ConfigError(f"{command[0]} ended with {status}: the broker was not reloaded")

    return reload


async def no_reload() -> None:
    """For a broker that watches its files, or that somebody else reloads."""
