"""`edge-runtime enroll` and `edge-runtime fleet`: joining a fleet, and where this box stands."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.config import Settings
from edge_runtime.errors import UsageError

Load = Callable[[Path | None, Path | None], Settings]
Refusals = Callable[[], AbstractContextManager[None]]


def register(app: typer.Typer, load: Load, refusals: Refusals) -> None:
    """Add the commands. `load` reads the settings, `refusals` turns errors into an exit."""

    @app.command()
    def enroll(
        url: Annotated[str, typer.Argument(help="The control host, https://...")],
        *,
        claim: Annotated[str, typer.Option(help="The one-time claim.", envvar="EDGE_CLAIM")],
        box: Annotated[str | None, typer.Option(help="The name this box would like.")] = None,
        ca: Annotated[
            Path | None, typer.Option(help="Authority (PEM) of a control host with its own.")
        ] = None,
        config: Annotated[
            Path | None,
            typer.Option("--config", "-c", help="Settings file (TOML).", envvar="EDGE_CONFIG"),
        ] = None,
        store: Annotated[
            Path | None, typer.Option("--store", help="Bundle store; overrides the settings.")
        ] = None,
    ) -> None:
        """Join a fleet: make this box's key, wait for approval, keep the credential."""
        import asyncio

        from edge_runtime.agent.credential import CredentialStore
        from edge_runtime.agent.enrol import Enrolment, HttpApi, Introduction, check_url
        from edge_runtime.agent.hardware import hardware, versions
        from edge_runtime.bundle.files import RealFiles, make_dirs

        with refusals():
            settings = load(config, store)
            base = check_url(url)
            files = RealFiles()
            make_dirs(files, settings.store.path)
            directory = settings.agent.directory(settings.store.path)
            enrolment = Enrolment(
                HttpApi(base, ca),
                CredentialStore(directory / "credential", files),
                Introduction(
                    hardware(settings.store.path), versions(), box, dict(settings.agent.labels)
                ),
                told=lambda text: typer.echo(text, err=True),
            )
            grant = asyncio.run(enrolment.run(base, claim))
        typer.echo(f"enrolled as {grant.principal}; start or restart the daemon")

    @app.command()
    def rescue(
        config: Annotated[
            Path | None,
            typer.Option("--config", "-c", help="Settings file (TOML).", envvar="EDGE_CONFIG"),
        ] = None,
        store: Annotated[
            Path | None, typer.Option("--store", help="Bundle store; overrides the settings.")
        ] = None,
    ) -> None:
        """Install the former release again when a new one does not come up; the daemon is off."""
        import asyncio

        from edge_runtime.agent.trial import trial_of

        with refusals():
            reason = "the service manager says that it did not come up"
            taken_back = asyncio.run(trial_of(load(config, store)).take_back(reason))
        typer.echo("the former release is installed" if taken_back else "no release is on trial")

    @app.command()
    def fleet(
        config: Annotated[
            Path | None,
            typer.Option("--config", "-c", help="Settings file (TOML).", envvar="EDGE_CONFIG"),
        ] = None,
        store: Annotated[
            Path | None, typer.Option("--store", help="Bundle store; overrides the settings.")
        ] = None,
    ) -> None:
        """Say which fleet this box is in and where it is with what is wanted of it."""
        from rich.console import Console
        from rich.table import Table

        from edge_runtime.agent.credential import CredentialStore
        from edge_runtime.agent.record import RecordStore
        from edge_runtime.bundle.files import RealFiles

        with refusals():
            settings = load(config, store)
            directory = settings.agent.directory(settings.store.path)
            held = CredentialStore(directory / "credential", RealFiles()).load()
            if held is None or held.grant is None:
                raise UsageError("this box is in no fleet; see `edge-runtime enroll --help`")
            record = RecordStore(directory, RealFiles()).load(held.grant.principal)
        console = Console()
        console.print(f"{held.grant.principal} of {held.url}", markup=False)
        table = Table("what", "generation", "state", "wanted", "why")
        for key, item in sorted(record.items.items()):
            failure = item.failure or item.condemned
            why = "" if item.deferral is None else str(item.deferral.reason)
            table.add_row(
                key,
                str(item.generation),
                str(item.state),
                item.item.digest[:12],
                f"{failure.code}: {failure.reason}" if failure is not None else why,
            )
        console.print(table if record.items else "nothing is wanted of it yet", markup=False)
