"""The command `edge-fleet`. So far the control host has a name and a version, and nothing else."""

from __future__ import annotations

import typer

from edge_runtime import __version__
from fleet.publish.cli import register as register_publish
from fleet.rollout.cli import register as register_rollouts

app = typer.Typer(
    no_args_is_help=True,
    help="The control host of a fleet of edge boxes. Telemetry is not built yet.",
)
register_publish(app)
register_rollouts(app)


@app.callback()
def main() -> None:
    """Keep `version` a subcommand while it is the only one."""


@app.command()
def version() -> None:
    """Print the version, which is the same for the daemon, the tools and the control host."""
    typer.echo(__version__)


if __name__ == "__main__":
    app()
