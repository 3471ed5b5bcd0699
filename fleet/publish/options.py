"""Options and helpers that the commands of publishing and of keys share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edge_runtime.errors import ConfigError, EdgeError

if TYPE_CHECKING:
    from fleet.publish.keys import KeyRing

RepoPath = Annotated[
    Path, typer.Option("--repo", help="Repository folder.", envvar="EDGE_FLEET_REPO")
]
KeyDirs = Annotated[
    list[Path],
    typer.Option("--keys", help="Folder of key files; may be repeated.", envvar="EDGE_FLEET_KEYS"),
]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="Its first line opens encrypted keys.")
]


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Errors made on purpose end the command with their message, not with a traceback."""
    try:
        yield
    except (EdgeError, OSError) as error:
        Console(stderr=True).print(f"edge-fleet: {error}", style="red", markup=False)
        raise typer.Exit(1) from error


def ring_of(directories: list[Path], passphrase_file: Path | None) -> KeyRing:
    """All keys of these folders. Raises `ConfigError`."""
    from fleet.publish.keys import KeyRing  # noqa: PLC0415 - what needs no key need not load it

    return KeyRing.load(directories, passphrase_of(passphrase_file))


def passphrase_of(path: Path | None) -> bytes | None:
    """What opens encrypted keys; None where no file is named. Raises `ConfigError`."""
    if path is None:
        return None
    return first_line(path, "a passphrase")


def first_line(path: Path, what: str) -> bytes:
    """The secret in a file. Raises `ConfigError` when there is none."""
    line = read_file(path).split(b"\n", 1)[0].strip()
    if not line:
        raise ConfigError(f"{path}: its first line is empty; {what} was expected there")
    return line


def read_file(path: Path) -> bytes:
    """A file's bytes. Raises `ConfigError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def visible(live: bool) -> str:
    """What a person has to do next, or not."""
    return "boxes can see it" if live else "run `edge-fleet timestamp` on the control host"
