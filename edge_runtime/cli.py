"""The command `edge-runtime`: run the daemon, and manage the bundles of a box.

Exit status: 0 done, 1 refused (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from edge_runtime import __version__
from edge_runtime.agent.cli import register as register_agent
from edge_runtime.cli_options import ConfigFile, StorePath, settings_of
from edge_runtime.config import Settings
from edge_runtime.config_file import parse_settings, settings_toml
from edge_runtime.errors import BundleError, EdgeError
from edge_runtime.ledger.cli import register as register_ledger
from edge_runtime.router.cli import register as register_router

if TYPE_CHECKING:
    from edge_runtime.bundle.activation import Committed, Loader, Refused
    from edge_runtime.bundle.store import Store

app = typer.Typer(
    name="edge-runtime",
    help="Serve small ONNX models on this box.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at settings before the daemon does.", no_args_is_help=True)
app.add_typer(config_app, name="config")
register_ledger(app)
register_router(app)

SHORT_DIGEST = 12


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Errors made on purpose end the command with their message, not with a traceback."""
    try:
        yield
    except EdgeError as error:
        Console(stderr=True).print(f"edge-runtime: {error}", style="red", markup=False)
        raise typer.Exit(1) from error


register_agent(app, settings_of, _refusals)


@app.command()
def serve(config: ConfigFile = None, store: StorePath = None) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; requests in progress may finish."""
    import asyncio

    from edge_runtime.agent.open import in_fleet
    from edge_runtime.agent.overlay import with_overlays
    from edge_runtime.agent.trial import guard_start, trial_of
    from edge_runtime.host import open_host
    from edge_runtime.logs import configure_logs
    from edge_runtime.server.serve import serve as run_server

    with _refusals():
        own = settings_of(config, store)
        configure_logs(own.log)
        asyncio.run(guard_start(trial_of(own)))
        settings = with_overlays(own, parse_settings, own.agent.directory(own.store.path))
        asyncio.run(run_server(settings, open_host, join=in_fleet(own, settings)))


@app.command()
def models(config: ConfigFile = None, store: StorePath = None) -> None:
    """List the active models of the store, also while the daemon runs."""
    from edge_runtime.bundle.files import RealFiles
    from edge_runtime.bundle.pack import load_manifest
    from edge_runtime.bundle.pointers import Pointers

    with _refusals():
        root = settings_of(config, store).store.path
        files = RealFiles()
        pointers = Pointers(root / "active", files)
        table = Table("name", "version", "kind", "variants", "digest", "previous")
        names = pointers.names() if (root / "active").is_dir() else ()
        for name in names:
            pointer = pointers.read(name)
            if pointer is None:
                continue
            manifest = load_manifest(root / "bundles" / pointer.bundle_digest, files)
            table.add_row(
                name,
                manifest.version,
                str(manifest.kind),
                ", ".join(variant.name for variant in manifest.variants),
                pointer.bundle_digest[:SHORT_DIGEST],
                (pointer.previous or "")[:SHORT_DIGEST],
            )
        Console().print(table if names else f"no model is active in {root}", markup=False)


@app.command()
def install(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    config: ConfigFile = None,
    store: StorePath = None,
    link: Annotated[
        bool, typer.Option(help="Link files instead of copying; same file system only.")
    ] = False,
) -> None:
    """Take a bundle into the store, check that it answers right, and serve its name from it."""
    with _refusals():
        settings = settings_of(config, store)
        with _open_store(settings) as opened:
            digest = opened.stage(bundle, link=link)
            name = opened.verify(digest).name
            _report(opened.activate(name, digest, _loader(settings)))


@app.command()
def activate(
    name: Annotated[str, typer.Argument(help="Model name.")],
    digest: Annotated[str, typer.Argument(help="Bundle digest, or its first digits.")],
    config: ConfigFile = None,
    store: StorePath = None,
) -> None:
    """Serve a name from a bundle that is in the store already."""
    with _refusals():
        settings = settings_of(config, store)
        with _open_store(settings) as opened:
            full = _full_digest(opened, digest)
            _report(opened.activate(name, full, _loader(settings)))


@app.command()
def revert(
    name: Annotated[str, typer.Argument(help="Model name.")],
    config: ConfigFile = None,
    store: StorePath = None,
) -> None:
    """Serve a name from its previous bundle again."""
    with _refusals():
        settings = settings_of(config, store)
        with _open_store(settings) as opened:
            _report(opened.revert(name, _loader(settings)))


@app.command()
def clean(config: ConfigFile = None, store: StorePath = None) -> None:
    """Remove bundles that are neither active nor kept to revert to."""
    with _refusals():
        with _open_store(settings_of(config, store)) as opened:
            removed = opened.garbage_collect()
        for digest in removed:
            typer.echo(f"removed {digest}")
        typer.echo(f"{len(removed)} bundles removed")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@config_app.command("check")
def config_check(config: ConfigFile = None) -> None:
    """Say whether the daemon would start with these settings."""
    with _refusals():
        settings_of(config)
    typer.echo("settings are valid")


@config_app.command("show")
def config_show(config: ConfigFile = None) -> None:
    """Print every setting as the daemon sees it, as TOML."""
    with _refusals():
        typer.echo(settings_toml(settings_of(config)), nl=False)


@config_app.command("key")
def config_key(
    tenant: Annotated[str, typer.Argument(help="Whose key it is.")] = "default",
) -> None:
    """Make an API key: the key for the caller, its digest for the settings."""
    key = secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    typer.echo(f"key for the caller, shown only now: {key}\n")
    typer.echo(f'[server.api_key_sha256]\n{tenant} = "{digest}"')


def _open_store(settings: Settings) -> contextlib.AbstractContextManager[Store]:
    from edge_runtime.bundle.store import Store

    return Store.open(settings.store.path)


def _loader(settings: Settings) -> Loader:
    from edge_runtime.host import bundle_loader

    return bundle_loader(settings)


def _report(outcome: Committed | Refused) -> None:
    from edge_runtime.bundle.activation import Refused

    if isinstance(outcome, Refused):
        raise BundleError("refused", outcome.reason)
    pointer = outcome.pointer
    typer.echo(f"{pointer.name} is served from {pointer.bundle_digest}")


def _full_digest(store: Store, start: str) -> str:
    found = [digest for digest in store.digests() if digest.startswith(start.lower())]
    if len(found) == 1:
        return found[0]
    known = ", ".join(digest[:SHORT_DIGEST] for digest in store.digests()) or "none"
    problem = "names several bundles" if found else "is not in the store"
    raise BundleError(start, f"{problem}; it has: {known}")
