"""What the commands of the control host share: settings, the database, tables and JSON."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from edge_runtime.errors import EdgeError
from fleet.db.database import Database, open_database
from fleet.registry.audit import Actor
from fleet.settings import FleetSettings, load_settings

T = TypeVar("T")

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings of the control host.", envvar="EDGEFLEET_CONFIG"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def settings_of(config: Path | None) -> FleetSettings:
    """The settings, or an end with the reason."""
    try:
        return load_settings(config, os.environ)
    except EdgeError as error:
        raise refused(error) from error


def refused(error: EdgeError) -> typer.Exit:
    """Say why, and end with 1."""
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(1)


def actor() -> Actor:
    """Who works on the command line."""
    return Actor(f"{getpass.getuser()} (command line)"[:64], "admin")


def in_database(config: Path | None, work: Callable[[Connection], T], *, write: bool = False) -> T:
    """Do one piece of work in the control host's database, or end with the reason."""
    settings = settings_of(config)
    try:
        database = open_database(settings.database.url)
        try:
            return database.write_now(work) if write else database.read_now(work)
        finally:
            database.close()
    except EdgeError as error:
        raise refused(error) from error


def with_database(
    config: Path | None, work: Callable[[FleetSettings, Database], Awaitable[T]]
) -> T:
    """The same for work that waits."""
    settings = settings_of(config)

    async def run() -> T:
        async with Database.opened(settings.database.url) as database:
            return await work(settings, database)

    try:
        return asyncio.run(run())
    except EdgeError as error:
        raise refused(error) from error


def show(
    items: Sequence[BaseModel], columns: Sequence[str], cells: Callable[[BaseModel], Iterable[str]],
    *, as_json: bool,
) -> None:  # fmt: skip
    """A table for people, or a list for programs."""
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in items], indent=2))
        return
    table = Table(*columns, box=None)
    for one in items:
        table.add_row(*cells(one))
    Console().print(table)


def ago(at_s: float | None) -> str:
    """How long ago, in one unit."""
    if at_s is None:
        return "never"
    seconds = max(0.0, time.time() - at_s)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def date(at_s: float | None) -> str:
    """A date in UTC."""
    return "" if at_s is None else time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at_s))


def labels_of(pairs: Sequence[str]) -> dict[str, str]:
    """`name=value` pairs of the command line."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE")
        found[name] = value
    return found
