"""What `edge-export distill` says to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from export_tools.distill.command import DATA_FOLDER, Distillation, DistillRequest
from export_tools.distill.kinds import Task

_SHOWN = ("endpoints", "models", "purposes", "reasons")


def show(result: Distillation, request: DistillRequest, console: Console) -> None:
    """What is inside, what was dropped and why, and what to run next."""
    summary = result.summary()
    console.print(_inside(summary["capture"]))
    if request.out is None:
        return
    dropped = Table("dropped", "exchanges", "for example", title_justify="left")
    for why, count in summary["dropped"].items():
        examples = summary["dropped_examples"].get(why, [])
        dropped.add_row(why, str(count), _plain(examples[0][:60]) if examples else "")
    if summary["dropped"]:
        console.print(dropped)
    rows = summary["rows"]
    made = (
        f"{request.out}: {rows['train']} rows to train on, {rows['dev']} dev, "
        f"{rows['heldout']} held out, {rows['out_of_scope']} out of scope; "
        f"{len(summary['labels'])} {'labels' if summary['task'] is Task.CLASSIFY else 'intents'}"
    )
    following = (
        f"next: edge-export train {request.out}/recipe.toml --data {request.out}/{DATA_FOLDER} "
        "--out CHECKPOINT"
    )
    for line in (made, *(f"note: {note}" for note in summary["notes"]), following):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _inside(capture: Mapping[str, Any]) -> Table:
    table = Table("captured", "exchanges")
    when = f"{capture['from']} to {capture['to']}" if capture["exchanges"] else "nothing"
    table.add_row(f"{capture['files']} files, {when}", str(capture["exchanges"]))
    for group in _SHOWN:
        for name, count in capture[group].items():
            table.add_row(_plain(f"{group.removesuffix('s')} {name or '(none)'}"), str(count))
    for question in capture["questions"]:
        first = " ".join(question["system"].split())[:60] or "(no instructions)"
        table.add_row(_plain(f"question {first}"), str(question["exchanges"]))
    table.add_row("refused by the frontier", str(capture["refused"]))
    table.add_row("cut at the limit on tokens", str(capture["cut"]))
    return table


def _plain(text: str) -> str:
    """Text of others without control characters."""
    return "".join(char if char.isprintable() else " " for char in text)
