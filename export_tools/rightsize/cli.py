"""`edge-export rightsize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge_runtime.errors import UsageError
from export_tools.console import reported
from export_tools.rightsize.prefer import Prefer


def rightsize(  # noqa: PLR0917 - options of a command
    candidates: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Bundle directories to compare.")
    ],
    data: Annotated[
        list[Path], typer.Option("--data", help="Labelled JSON lines, as for certify; repeatable.")
    ],
    task: Annotated[str, typer.Option(help="The task, as requests name it.")],
    alpha: Annotated[float, typer.Option(help="Error among the kept, for the coverage.")] = 0.05,
    certificate_delta: Annotated[
        float, typer.Option(help="Chance that its calibration misleads, for the coverage.")
    ] = 0.1,
    margin: Annotated[
        float, typer.Option(min=0, max=0.5, help="Loss against any other that is accepted.")
    ] = 0.01,
    floor: Annotated[
        float | None, typer.Option(help="Quality that is enough, whatever the best has.")
    ] = None,
    delta: Annotated[float, typer.Option(help="Chance to choose one that is not enough.")] = 0.05,
    prefer: Annotated[
        Prefer, typer.Option(help="What should be small: bytes on disk, of memory, or time.")
    ] = Prefer.SIZE,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Only these variants; repeatable.")
    ] = None,
    oos: Annotated[
        list[Path] | None, typer.Option("--oos", help="Texts out of scope, for the coverage.")
    ] = None,
    traffic_oos: Annotated[
        float | None,
        typer.Option(min=0, max=0.99, help="Share out of scope [default: the data's own]."),
    ] = None,
    timed: Annotated[int, typer.Option(min=5, help="Requests that are timed.")] = 100,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads [default: what the machine has].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make: report, table and plot.")
    ] = None,
) -> None:
    """Find the smallest of several bundles that does the job as well as the best."""
    from datetime import UTC, datetime

    from export_tools.certify.issue import Terms
    from export_tools.rightsize.choose import Wanted
    from export_tools.rightsize.command import RightsizeRequest
    from export_tools.rightsize.command import rightsize as compare
    from export_tools.rightsize.tables import told

    console = Console(stderr=True)
    with reported(console):
        try:
            wanted = Wanted(margin, floor, delta)
        except ValueError as error:
            raise UsageError(str(error)) from error
        request = RightsizeRequest(
            bundles=tuple(candidates),
            data=tuple(data),
            task=task,
            terms=Terms(alpha, certificate_delta, 1),
            wanted=wanted,
            oos=tuple(oos or ()),
            oos_share=traffic_oos,
            variants=tuple(variant or ()),
            prefer=prefer,
            timed=timed,
            threads=threads,
            out=out,
        )
        result = compare(request, datetime.now(UTC), told=lambda name: console.print(f"{name} ..."))
        for line in told(result.rows()):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        for name, did in zip(result.candidates, result.measured, strict=True):
            if did.coverage.why:
                console.print(f"{name.name}: no coverage: {did.coverage.why}", markup=False)
        console.print(result.choice.why, markup=False, highlight=False, soft_wrap=True)
    if result.choice.chosen is None:
        raise typer.Exit(1)
