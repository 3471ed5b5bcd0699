"""`python -m export_tools.train RECIPE --data DIR --out DIR`: train one of the built-in models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge_runtime.errors import EdgeError
from export_tools.train.console import run_in_console


def main(
    recipe: Annotated[Path, typer.Argument(help="A recipe.toml with a [train] table.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint; a stopped run goes on.")],
    data: Annotated[
        Path | None,
        typer.Option(envvar="EDGE_DATA_DIR", help="Folder with the data sets' folders."),
    ] = None,
    *,
    smoke: Annotated[bool, typer.Option(help="A tiny run in seconds, to test the road.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train the model of a recipe into a Hugging Face checkpoint."""
    console = Console(stderr=True)
    try:
        run_in_console(recipe, data, out, smoke=smoke, device=device, console=console)
    except EdgeError as error:
        console.print(f"error: {error}", style="red", highlight=False)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
