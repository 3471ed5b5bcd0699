"""`edge-fleet demo`, as a command."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from pathlib import Path
from typing import Annotated

import structlog
import typer

from edge_runtime.errors import EdgeError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command()
    def demo(
        *,
        boxes: Annotated[int, typer.Option(min=1, max=50, help="Simulated boxes.")] = 5,
        speed: Annotated[
            float, typer.Option(min=1, max=600, help="Simulated seconds in a real one.")
        ] = 120.0,
        flawed: Annotated[
            bool, typer.Option("--flawed", help="Roll out a bundle that crashes, and see it halt.")
        ] = False,
        stay: Annotated[
            bool, typer.Option("--stay", help="Go on after the rollout, until Ctrl-C.")
        ] = False,
    ) -> None:
        """Show a fleet on this machine: simulated boxes, a bundle, a rollout in waves."""
        from fleet.demo import DemoOptions, run_demo  # noqa: PLC0415 - loads all of it
        from fleet.rollout.states import Phase  # noqa: PLC0415 - the same

        # What goes wrong is raised; the rest would stand between the lines of the demo.
        quiet = structlog.make_filtering_bound_logger(logging.ERROR)
        structlog.configure(wrapper_class=quiet)
        wanted = Phase.ROLLED_BACK if flawed else Phase.COMPLETED
        with tempfile.TemporaryDirectory(prefix="edge-fleet-demo-") as folder:
            options = DemoOptions(Path(folder), boxes, speed, flawed)
            try:
                phase = asyncio.run(
                    run_demo(options, typer.echo, stay=typer.echo if stay else None)
                )
            except KeyboardInterrupt:
                return
            except EdgeError as error:
                typer.echo(f"error: {error}", err=True)
                raise typer.Exit(1) from error
            except TimeoutError as error:
                typer.echo("error: the demo takes too long; this machine is busy", err=True)
                raise typer.Exit(1) from error
        if phase is not wanted:
            typer.echo(f"error: the rollout ended as {phase}, not as {wanted}", err=True)
            raise typer.Exit(1)
