"""The commands `edge-fleet publish`, `delta`, `push`, `timestamp` and `keys`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from edge_runtime.errors import ConfigError, EdgeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from fleet.publish.keys import KeyRing
    from fleet.publish.publish import Published

keys_app = typer.Typer(help="Make, delegate, rotate and show signing keys.", no_args_is_help=True)

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
RoleName = Annotated[
    str,
    typer.Argument(help="A model's name, or: root, targets, snapshot, timestamp, settings, ..."),
]
SHORT_ID = 16
ONLINE = ("snapshot", "timestamp", "orders")


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

    with _refusals():
        publisher = Publisher(Repository(repo), _ring(keys, passphrase_file), datetime.now(UTC))
        if what is not What.RELEASE and len(paths) != 1:
            raise ConfigError(f"one path at a time is published as a {what}")
        if what is not What.BUNDLE and not name:
            raise ConfigError(f"a {what} needs --name")
        if what is What.BUNDLE:
            if not paths[0].is_dir():
                raise ConfigError(f"{paths[0]}: is no bundle folder; --as says what else it is")
            done = publisher.bundle(paths[0], release_floor=release_floor)
        elif what is What.SETTINGS:
            document = _read(paths[0])
            try:
                envelope = publisher.sealed_settings(parse_strict(document))
            except ValueError as error:
                raise ConfigError(f"{paths[0]}: {error}") from error
            done = publisher.settings(name, envelope, release_floor=release_floor)
        elif what is What.CERTIFICATE:
            done = publisher.certificate(name, _read(paths[0]))
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

    with _refusals():
        repository = Repository(repo)
        publisher = Publisher(repository, _ring(keys, passphrase_file), datetime.now(UTC))
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

    with _refusals():
        token = _first_line(token_file, "a token").decode("ascii", "replace")
        done = asyncio.run(run(Repository(repo), to, token, ca=ca, say=typer.echo))
        if not done:
            typer.echo("everything is there already")
        for one in done:
            typer.echo(
                f"{one.role}: version {one.version}, {one.targets} new, {one.blobs} files with "
                f"{one.bytes} bytes; {_visible(one.live)}"
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

    with _refusals():
        repository = Repository(repo)
        ring = _ring(keys, passphrase_file)
        with repository.locked():
            if not refresh(repository, ring, datetime.now(UTC), force=force):
                raise ConfigError("the snapshot and timestamp keys are needed; give --keys")
        typer.echo("snapshot and timestamp are up to date")


@keys_app.command("init")
def init(
    repo: RepoPath,
    keys: Annotated[
        Path, typer.Option("--keys", help="New folder for the keys.", envvar="EDGE_FLEET_KEYS")
    ],
    *,
    model: Annotated[list[str] | None, typer.Option(help="Models to delegate at once.")] = None,
    root_keys: Annotated[int, typer.Option(min=1, max=16, help="How many root keys.")] = 1,
    root_threshold: Annotated[int, typer.Option(min=1, max=16, help="How many must sign.")] = 1,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make one key a role and the first metadata; then take `offline/` off this machine."""
    from fleet.publish.initial import initialise
    from fleet.publish.repository import Repository

    with _refusals():
        initialise(
            Repository(repo),
            keys,
            models=model or [],
            root_keys=root_keys,
            root_threshold=root_threshold,
            passphrase=_passphrase(passphrase_file),
            now=datetime.now(UTC),
        )
        typer.echo(f"keys made in {keys}; move {keys / 'offline'} to a safe place off this machine")
        typer.echo(f"boxes trust {repo / 'metadata' / '1.root.json'}")


@keys_app.command("delegate")
def delegate(
    role: RoleName,
    repo: RepoPath,
    keys: KeyDirs,
    *,
    public_key: Annotated[
        list[Path] | None, typer.Option(help="PEM of a key that may publish; else publisher.pem.")
    ] = None,
    threshold: Annotated[int, typer.Option(min=1, max=16, help="How many must sign.")] = 1,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Say which keys, and no others, may publish a model, settings or releases."""
    from fleet.publish.repository import Repository
    from fleet.publish.roles import RoleKeys
    from fleet.publish.roles import delegate as run

    with _refusals():
        ring = _ring(keys, passphrase_file)
        wanted = RoleKeys(_public_keys(public_key, ring), threshold)
        live = run(Repository(repo), _role(role), wanted, ring, datetime.now(UTC))
        typer.echo(f"{_role(role)}: {_visible(live)}")


@keys_app.command("rotate")
def rotate(
    role: RoleName,
    repo: RepoPath,
    keys: KeyDirs,
    *,
    new_key: Annotated[Path, typer.Option(help="File for the new key; must not exist.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Replace the key of a role by a new one. Needs the key that vouches for the role."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fleet.publish.keys import read_key, write_key
    from fleet.publish.repository import Repository
    from fleet.publish.roles import RoleKeys
    from fleet.publish.roles import rotate as run

    with _refusals():
        passphrase = _passphrase(passphrase_file)
        ring = _ring(keys, passphrase_file)
        if not new_key.exists():  # one that is there was made by a run that was cut short
            write_key(new_key, Ed25519PrivateKey.generate(), passphrase)
        key = read_key(new_key, passphrase)
        wanted = RoleKeys((key.public_key(),))
        now = datetime.now(UTC)
        live = run(Repository(repo), _role(role), wanted, ring.with_keys([key]), now)
        typer.echo(f"{_role(role)}: new key in {new_key}; {_visible(live)}")


@keys_app.command("renew")
def renew(
    role: RoleName, repo: RepoPath, keys: KeyDirs, *, passphrase_file: PassphraseFile = None
) -> None:
    """Sign the same metadata of an offline role again, with a later expiry."""
    from fleet.publish.repository import Repository
    from fleet.publish.roles import renew as run

    with _refusals():
        ring = _ring(keys, passphrase_file)
        live = run(Repository(repo), _role(role), ring, datetime.now(UTC))
        typer.echo(f"{_role(role)}: {_visible(live)}")


@keys_app.command("show")
def show(
    repo: RepoPath,
    keys: Annotated[list[Path] | None, typer.Option("--keys", help="Folders to look in.")] = None,
    *,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Which keys may sign what, until when it is signed, and which keys are at hand."""
    from fleet.publish.overview import overview
    from fleet.publish.repository import Repository

    with _refusals():
        here = set(_ring(keys, passphrase_file).keys) if keys else set()
        table = Table("role", "version", "expires (UTC)", "keys", "at hand")
        for row in overview(Repository(repo)):
            table.add_row(
                row.role,
                "-" if row.version is None else str(row.version),
                "-" if row.expires is None else f"{row.expires:%Y-%m-%d %H:%M}",
                f"{row.threshold} of " + ", ".join(keyid[:SHORT_ID] for keyid in row.keyids),
                f"{len(here & set(row.keyids))}",
            )
        Console().print(table)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Errors made on purpose end the command with their message, not with a traceback."""
    try:
        yield
    except (EdgeError, OSError) as error:
        Console(stderr=True).print(f"edge-fleet: {error}", style="red", markup=False)
        raise typer.Exit(1) from error


def _ring(directories: list[Path], passphrase_file: Path | None) -> KeyRing:
    from fleet.publish.keys import KeyRing

    return KeyRing.load(directories, _passphrase(passphrase_file))


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    return _first_line(path, "a passphrase")


def _first_line(path: Path, what: str) -> bytes:
    line = _read(path).split(b"\n", 1)[0].strip()
    if not line:
        raise ConfigError(f"{path}: its first line is empty; {what} was expected there")
    return line


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _role(text: str) -> str:
    from edge_runtime.bundle.targets import ORDERS_ROLE, RELEASES_ROLE, SETTINGS_ROLE, model_role
    from fleet.publish.repository import TOP_ROLES

    fixed = (*TOP_ROLES, SETTINGS_ROLE, RELEASES_ROLE, ORDERS_ROLE)
    return text if text in fixed else model_role(text)


def _public_keys(paths: list[Path] | None, ring: KeyRing) -> tuple[Ed25519PublicKey, ...]:
    from edge_runtime.bundle.envelope import read_public_key

    if paths:
        return tuple(read_public_key(_read(path), name=str(path)) for path in paths)
    for keyid, path in ring.paths.items():
        if path.name == "publisher.pem":
            return (ring.keys[keyid].public_key(),)
    raise ConfigError("no publisher.pem is at hand; name the keys with --public-key")


def _say(done: Published) -> None:
    typer.echo(done.digest)
    text = f"{done.target}: {done.new_bytes} new bytes; {_visible(done.live)}"
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def _visible(live: bool) -> str:
    return "boxes can see it" if live else "run `edge-fleet timestamp` on the control host"
