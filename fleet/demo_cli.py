"""`edge-fleet demo`, as a command."""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from edge_runtime.errors import EdgeError

if TYPE_CHECKING:
    from fleet.demo import DemoOptions
    from fleet.rollout.states import Phase


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
            bool,
            typer.Option("--flawed", help="Roll out a bundle that boxes refuse, and see it halt."),
        ] = False,
        stay: Annotated[
            bool, typer.Option("--stay", help="Go on after the rollout, until Ctrl-C.")
        ] = False,
        daemon: Annotated[
            bool, typer.Option(help="With a real daemon beside the simulated boxes.")
        ] = True,
    ) -> None:
        """Show a fleet on this machine: simulated boxes, a real one, a rollout in waves."""
        from fleet.demo import DemoOptions  # noqa: PLC0415 - loads all of it
        from fleet.rollout.states import Phase  # noqa: PLC0415 - the same

        # What goes wrong is raised; the rest would stand between the lines of the demo.
        quiet = structlog.make_filtering_bound_logger(logging.ERROR)
        structlog.configure(wrapper_class=quiet)
        wanted = Phase.ROLLED_BACK if flawed else Phase.COMPLETED
        with tempfile.TemporaryDirectory(prefix="edge-fleet-demo-") as folder:
            options = DemoOptions(Path(folder), boxes, speed, flawed, daemon)
            try:
                phase = asyncio.run(_until_told(options, stay=stay))
            except (KeyboardInterrupt, asyncio.CancelledError):
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


async def _until_told(options: DemoOptions, *, stay: bool) -> Phase:
    """The demo; SIGTERM and a closed terminal end it in order, as Ctrl-C does."""
    from fleet.demo import run_demo  # noqa: PLC0415 - loads all of it

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await run_demo(options, typer.echo, stay=typer.echo if stay else None)
