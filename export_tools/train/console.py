"""A training run on the terminal: what is done, the loss, the time left, one line an epoch."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from export_tools.train.run import train

if TYPE_CHECKING:
    from export_tools.train.loop import Tick

_SCALE = 10_000


class TrainProgress:
    """A progress callback that draws; a context manager. Quiet bars where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("train", total=_SCALE, epoch="-", loss=float("nan"))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, tick: Tick) -> None:
        """Move the bar; print the figures of an evaluated epoch."""
        epoch = f"{tick.epoch + 1}/{tick.epochs}"
        self._bar.update(self._task, completed=tick.done * _SCALE, epoch=epoch, loss=tick.loss)
        if tick.metrics:
            figures = ", ".join(f"{name} {value:.4f}" for name, value in tick.metrics.items())
            self._console.print(f"epoch {epoch}: loss {tick.loss:.4f}, dev {figures}")


def run_in_console(
    recipe: Path, data: Path | None, out: Path, *, smoke: bool, device: str, console: Console
) -> None:
    """Train with a progress bar and end by saying where the checkpoint and its report lie."""
    with TrainProgress(console) as progress:
        result = train(recipe, data, out, smoke=smoke, device=device, progress=progress)
    console.print(f"best epoch {result.best_epoch + 1}; checkpoint and train_report.json in {out}")
