"""The terminal: errors as one line, and a bar with what is done and the time left."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from edge_runtime.errors import EdgeError


class reported:  # noqa: N801 - reads as a statement
    """Turns the project's errors into one line and exit code 1."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if isinstance(error, EdgeError):
            self._console.print(f"error: {error}", style="red", markup=False, highlight=False)
            raise typer.Exit(1) from error


class RichProgress:
    """A `Progress` listener that draws; a context manager, quiet where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(),
            TextColumn("{task.fields[tensor]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:  # stopping a bar that never started prints an empty line
            self._bar.stop()

    def begin(self, task: str, total_bytes: int) -> None:
        """Start the bar anew for the next phase."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._bar.start()
        self._task = self._bar.add_task(task, total=total_bytes, tensor="")

    def advance(self, tensor: str, done_bytes: int) -> None:
        """Move the bar and name the tensor."""
        if self._task is not None:
            self._bar.update(self._task, advance=done_bytes, tensor=tensor)
