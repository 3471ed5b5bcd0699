"""The command `edge-fleet`."""

from __future__ import annotations

import asyncio

import typer

from edge_runtime import __version__
from edge_runtime.errors import EdgeError
from fleet.console import Config, refused, settings_of
from fleet.demo_cli import register as register_demo
from fleet.enrol.cli import register as register_enrolment
from fleet.publish.cli import register as register_publish
from fleet.registry.cli import boxes_app
from fleet.registry.cli import register as register_registry
from fleet.rollout.cli import register as register_rollouts

app = typer.Typer(
    no_args_is_help=True,
    help="The control host of a fleet of edge boxes: who is in it, what each should serve, how "
    "it gets there, and what it reports.",
)
register_publish(app)
register_rollouts(app)
register_registry(app)
register_enrolment(app, boxes_app)
register_demo(app)


@app.command()
def serve(config: Config = None) -> None:
    """Run the control host until SIGTERM: API, rollouts, telemetry, alerts."""
    from fleet.logs import configure_logs
    from fleet.serve import serve as run

    configure_logs()
    settings = settings_of(config)
    try:
        asyncio.run(run(settings, on_listening=lambda url: typer.echo(f"listening on {url}")))
    except EdgeError as error:
        raise refused(error) from error


@app.command("config")
def show_config(config: Config = None) -> None:
    """Print every setting with its value, as TOML."""
    from edge_runtime.config_loader import settings_toml

    typer.echo(settings_toml(settings_of(config)), nl=False)


@app.command()
def version() -> None:
    """Print the version, which is the same for the daemon, the tools and the control host."""
    typer.echo(__version__)


if __name__ == "__main__":
    app()
