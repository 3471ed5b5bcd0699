"""`edge-export distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export_tools.console import reported
from export_tools.distill.kinds import StudentKind, Task


def distill(  # noqa: PLR0917 - options of a command
    captures: Annotated[
        list[Path], typer.Argument(metavar="CAPTURE...", help="Capture files, or their folders.")
    ],
    key: Annotated[
        list[Path], typer.Option("--key", help="File that `capture.key_file` names; repeatable.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to make; without it only what is inside is told."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Recipe of the model that escalated; the student is trained like it."),
    ] = None,
    task: Annotated[
        Task | None, typer.Option(help="What the student does [default: by recipe or answers].")
    ] = None,
    kind: Annotated[
        StudentKind | None, typer.Option(help="What the student is [default: by the task].")
    ] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option("--endpoint", help="Only these endpoints; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the student.")] = None,
    agreement: Annotated[
        float,
        typer.Option(min=0.5, max=1, help="Share of a question's answers that must be equal."),
    ] = 0.66,
    confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Least confidence of a label.")
    ] = 0.0,
    rows_of_label: Annotated[
        int, typer.Option(min=1, help="Labels with fewer answers are left out.")
    ] = 2,
    dev: Annotated[float, typer.Option(min=1, max=50, help="Percent that choose the epoch.")] = 5.0,
    heldout: Annotated[float, typer.Option(min=0, max=50, help="Percent kept back.")] = 10.0,
    *,
    take_cut: Annotated[
        bool, typer.Option("--take-cut", help="Use segments that end within a record.")
    ] = False,
) -> None:
    """Turn captured frontier answers into a training set and the recipe of a student."""
    from export_tools.distill.command import DistillRequest
    from export_tools.distill.command import distill as distill_captures
    from export_tools.distill.console import show
    from export_tools.distill.curate import Limits

    console = Console(stderr=True)
    with reported(console):
        request = DistillRequest(
            captures=tuple(captures),
            keys=tuple(key),
            out=out,
            task=task,
            kind=kind,
            recipe=recipe,
            endpoints=frozenset(endpoint or ()),
            name=name,
            limits=Limits(agreement, confidence, rows_of_label),
            dev_percent=dev,
            heldout_percent=heldout,
            take_cut=take_cut,
        )
        show(distill_captures(request), request, console)
