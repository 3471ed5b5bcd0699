"""The commands `edge-fleet publish`, `delta`, `push`, `timestamp` and `keys`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from edge_runtime.errors import ConfigError
from fleet.publish.keys_cli import keys_app
from fleet.publish.options import (
    KeyDirs,
    PassphraseFile,
    RepoPath,
    first_line,
    read_file,
    refusals,
    ring_of,
    visible,
)

if TYPE_CHECKING:
    from fleet.publish.publish import Published


class What(StrEnum):
    """What a path holds."""

    BUNDLE = "bundle"
    SETTINGS = "settings"
    CERTIFICATE = "certificate"
    RELEASE = "release"


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(publish)
    app.command()(delta)
    app.command()(push)
    app.command()(timestamp)
    app.add_typer(keys_app, name="keys")


def publish(
    paths: Annotated[list[Path], typer.Argument(help="Bundle folder, or files.")],
    repo: RepoPath,
    keys: KeyDirs,
    *,
    what: Annotated[What, typer.Option("--as", help="What it is.")] = What.BUNDLE,
    name: Annotated[
        str, typer.Option(help="Model of a certificate; name of settings or of a program.")
    ] = "",
    version: Annotated[str, typer.Option(help="Version of a release.")] = "",
    release_floor: Annotated[
        int, typer.Option(min=1, help="From now on no box may go below this release.")
    ] = 1,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Put a bundle, settings, a certificate or a daemon release where boxes may fetch it.

    Nothing is rolled out by this. Publishing the same again changes nothing.
    """
    from edge_runtime.bundle.canonical import parse_strict
    from fleet.publish.publish import Publisher
    from fleet.publish.repository import Repository

    with refusals():
        publisher = Publisher(Repository(repo), ring_of(keys, passphrase_file), datetime.now(UTC))
        if what is not What.RELEASE and len(paths) != 1:
            raise ConfigError(f"one path at a time is published as a {what}")
        if what is not What.BUNDLE and not name:
            raise ConfigError(f"a {what} needs --name")
        if what is What.BUNDLE:
            if not paths[0].is_dir():
                raise ConfigError(f"{paths[0]}: is no bundle folder; --as says what else it is")
            done = publisher.bundle(paths[0], release_floor=release_floor)
        elif what is What.SETTINGS:
            document = read_file(paths[0])
            try:
                envelope = publisher.sealed_settings(parse_strict(document))
            except ValueError as error:
                raise ConfigError(f"{paths[0]}: {error}") from error
            done = publisher.settings(name, envelope, release_floor=release_floor)
        elif what is What.CERTIFICATE:
            done = publisher.certificate(name, read_file(paths[0]))
        else:
            done = publisher.release(name, version, paths, release_floor=release_floor)
        _say(done)


def delta(
    name: Annotated[str, typer.Argument(help="Model.")],
    base: Annotated[str, typer.Argument(help="Release number or digest to start from.")],
    result: Annotated[str, typer.Argument(help="Release number or digest to arrive at.")],
    repo: RepoPath,
    keys: KeyDirs,
    *,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make and publish what turns one published bundle into another on a box."""
    from fleet.publish.publish import Publisher, find_bundle, published_manifest
    from fleet.publish.repository import Repository

    with refusals():
        repository = Repository(repo)
        publisher = Publisher(repository, ring_of(keys, passphrase_file), datetime.now(UTC))
        ends = [find_bundle(repository, name, text) for text in (base, result)]
        done, made = publisher.delta(name, *ends)
        files = {entry.path: entry.size for entry in published_manifest(repository, ends[1]).files}
        table = Table("file", "bytes", "delta", "share")
        for item in made.files:
            full, size = files[item.delta.path], item.delta.size
            table.add_row(item.delta.path, f"{full}", f"{size}", f"{size / max(full, 1):.1%}")
        Console().print(table)
        _say(done)


def push(
    repo: RepoPath,
    *,
    to: Annotated[str, typer.Option(help="The control host's address.")],
    token_file: Annotated[
        Path, typer.Option(help="Its first line is a publisher's token of the control host.")
    ],
    ca: Annotated[Path | None, typer.Option(help="PEM of who signed its certificate.")] = None,
) -> None:
    """Send what was published here to a control host that has no keys of publishers.

    Needs no key: what is sent was signed by `edge-fleet publish`. What is there already is not
    sent again.
    """
    import asyncio

    from fleet.publish.push import push as run
    from fleet.publish.repository import Repository

    with refusals():
        token = first_line(token_file, "a token").decode("ascii", "replace")
        done = asyncio.run(run(Repository(repo), to, token, ca=ca, say=typer.echo))
        if not done:
            typer.echo("everything is there already")
        for one in done:
            typer.echo(
                f"{one.role}: version {one.version}, {one.targets} new, {one.blobs} files with "
                f"{one.bytes} bytes; {visible(one.live)}"
            )


def timestamp(
    repo: RepoPath,
    keys: KeyDirs,
    *,
    force: Annotated[bool, typer.Option(help="Sign even when nothing changed.")] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign snapshot and timestamp again where they are old or metadata is new.

    The control host does this by itself; by hand it makes visible what was signed elsewhere.
    """
    from fleet.publish.refresh import refresh
    from fleet.publish.repository import Repository

    with refusals():
        repository = Repository(repo)
        ring = ring_of(keys, passphrase_file)
        with repository.locked():
            if not refresh(repository, ring, datetime.now(UTC), force=force):
                raise ConfigError("the snapshot and timestamp keys are needed; give --keys")
        typer.echo("snapshot and timestamp are up to date")


def _say(done: Published) -> None:
    typer.echo(done.digest)
    text = f"{done.target}: {done.new_bytes} new bytes; {visible(done.live)}"
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
