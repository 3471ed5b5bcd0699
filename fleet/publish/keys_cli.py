"""The commands `edge-fleet keys`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from edge_runtime.errors import ConfigError
from fleet.publish.options import (
    KeyDirs,
    PassphraseFile,
    RepoPath,
    passphrase_of,
    read_file,
    refusals,
    ring_of,
    visible,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from fleet.publish.drafts import Draft
    from fleet.publish.keys import KeyRing

keys_app = typer.Typer(
    help="Make, delegate, rotate, sign with and show signing keys.", no_args_is_help=True
)

RoleName = Annotated[
    str,
    typer.Argument(help="A model's name, or: root, targets, snapshot, timestamp, settings, ..."),
]
AsDraft = Annotated[
    bool,
    typer.Option("--draft", help="Other people must sign too: see `edge-fleet keys sign`."),
]
SHORT_ID = 16


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
    targets_keys: Annotated[int, typer.Option(min=1, max=16, help="How many targets keys.")] = 1,
    targets_threshold: Annotated[int, typer.Option(min=1, max=16, help="How many must sign.")] = 1,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make one key a role and the first metadata; then take `offline/` off this machine."""
    from fleet.publish.initial import initialise
    from fleet.publish.repository import Repository

    with refusals():
        initialise(
            Repository(repo),
            keys,
            models=model or [],
            root_keys=root_keys,
            root_threshold=root_threshold,
            targets_keys=targets_keys,
            targets_threshold=targets_threshold,
            passphrase=passphrase_of(passphrase_file),
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

    with refusals():
        ring = ring_of(keys, passphrase_file)
        wanted = RoleKeys(_public_keys(public_key, ring), threshold)
        live = run(Repository(repo), _role(role), wanted, ring, datetime.now(UTC))
        typer.echo(f"{_role(role)}: {visible(live)}")


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

    with refusals():
        passphrase = passphrase_of(passphrase_file)
        ring = ring_of(keys, passphrase_file)
        if not new_key.exists():  # one that is there was made by a run that was cut short
            write_key(new_key, Ed25519PrivateKey.generate(), passphrase)
        key = read_key(new_key, passphrase)
        wanted = RoleKeys((key.public_key(),))
        now = datetime.now(UTC)
        live = run(Repository(repo), _role(role), wanted, ring.with_keys([key]), now)
        typer.echo(f"{_role(role)}: new key in {new_key}; {visible(live)}")


@keys_app.command("renew")
def renew(
    role: RoleName,
    repo: RepoPath,
    keys: KeyDirs,
    *,
    draft: AsDraft = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign the same metadata of an offline role again, with a later expiry."""
    from fleet.publish.drafts import draft_renewal
    from fleet.publish.repository import Repository
    from fleet.publish.roles import renew as run

    with refusals():
        ring = ring_of(keys, passphrase_file)
        if draft:
            _say_draft(draft_renewal(Repository(repo), role, ring, datetime.now(UTC)))
            return
        live = run(Repository(repo), _role(role), ring, datetime.now(UTC))
        typer.echo(f"{_role(role)}: {visible(live)}")


@keys_app.command("replace-root")
def replace_root(
    repo: RepoPath,
    keys: KeyDirs,
    *,
    public_key: Annotated[list[Path], typer.Option(help="PEM of each key of the new root.")],
    threshold: Annotated[int, typer.Option(min=1, max=16, help="How many must sign.")] = 1,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Begin a root with these people's keys; enough of the old ones and of these must sign it."""
    from fleet.publish.drafts import draft_root_keys
    from fleet.publish.repository import Repository
    from fleet.publish.roles import RoleKeys

    with refusals():
        ring = ring_of(keys, passphrase_file)
        wanted = RoleKeys(_public_keys(public_key, ring), threshold)
        _say_draft(draft_root_keys(Repository(repo), wanted, ring, datetime.now(UTC)))


@keys_app.command("sign")
def sign(
    role: Annotated[str, typer.Argument(help="root or targets.")],
    repo: RepoPath,
    keys: Annotated[
        list[Path] | None,
        typer.Option("--keys", help="Folders of keys; none: only say what the draft is."),
    ] = None,
    *,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Add your signature to a draft. The last one that is needed publishes it."""
    from fleet.publish.drafts import look_at_draft, sign_draft
    from fleet.publish.repository import Repository

    with refusals():
        repository = Repository(repo)
        if not keys:
            _say_draft(look_at_draft(repository, role))
            return
        ring = ring_of(keys, passphrase_file)
        _say_draft(sign_draft(repository, role, ring, datetime.now(UTC)))


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

    with refusals():
        here = set(ring_of(keys, passphrase_file).keys) if keys else set()
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


def _role(text: str) -> str:
    from edge_runtime.bundle.targets import ORDERS_ROLE, RELEASES_ROLE, SETTINGS_ROLE, model_role
    from fleet.publish.repository import TOP_ROLES

    fixed = (*TOP_ROLES, SETTINGS_ROLE, RELEASES_ROLE, ORDERS_ROLE)
    return text if text in fixed else model_role(text)


def _public_keys(paths: list[Path] | None, ring: KeyRing) -> tuple[Ed25519PublicKey, ...]:
    from edge_runtime.bundle.envelope import read_public_key

    if paths:
        return tuple(read_public_key(read_file(path), name=str(path)) for path in paths)
    for keyid, path in ring.paths.items():
        if path.name == "publisher.pem":
            return (ring.keys[keyid].public_key(),)
    raise ConfigError("no publisher.pem is at hand; name the keys with --public-key")


def _say_draft(draft: Draft) -> None:
    typer.echo(f"{draft.role} {draft.version}, holds until {draft.expires:%Y-%m-%d %H:%M} UTC")
    for change in draft.changes:
        typer.echo(f"  {change}")
    if not draft.missing:
        typer.echo(f"signed by enough people; {visible(draft.live)}")
        return
    waiting = ", ".join(one[:SHORT_ID] for one in draft.waiting)
    typer.echo(f"{draft.missing} more of {waiting} must sign: `edge-fleet keys sign {draft.role}`")
