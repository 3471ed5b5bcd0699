"""What the ledger's commands share: their options, and how they refuse."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge_runtime.config_file import load_settings
from edge_runtime.errors import EdgeError, UsageError
from edge_runtime.ledger.prices import Prices
from edge_runtime.ledger.rows import US_PER_DAY

LEDGER_FILE = Path("ledger") / "ledger.db"  # below the store

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file (TOML).", envvar="EDGE_CONFIG"),
]
LedgerFile = Annotated[
    Path | None, typer.Option("--ledger", help="Ledger file; by default in the store's folder.")
]
PriceFile = Annotated[
    Path | None, typer.Option("--prices", help="Price list (TOML); for savings and currency.")
]
OverrideFile = Annotated[
    Path | None, typer.Option("--override", help="Price list that wins key by key.")
]
Against = Annotated[
    str | None,
    typer.Option("--against", help="Frontier model to compare with; the list's only one."),
]
Since = Annotated[
    str, typer.Option("--since", help="A date (2026-11-01), a while (30d, 12h), or `all`.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON; money in nano-units.")]


def parse_since(text: str, now: int) -> int:
    """Microseconds since 1970 of a date (UTC), a while back from now, or `all`.

    Raises `UsageError` for anything else.
    """
    if text == "all":
        return 0
    found = re.fullmatch(r"(\d{1,5})([dh])", text)
    if found:
        unit = US_PER_DAY if found[2] == "d" else US_PER_DAY // 24
        return max(0, now - int(found[1]) * unit)
    with contextlib.suppress(ValueError):
        at = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        return max(0, (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))
    raise UsageError(f"--since {text}: give a date like 2026-11-01, a while like 30d, or all")


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Errors made on purpose end the command with their message, not with a traceback."""
    try:
        yield
    except EdgeError as error:
        Console(stderr=True).print(f"edge-runtime: {error}", style="red", markup=False)
        raise typer.Exit(1) from error


def ledger_path(ledger: Path | None, config: Path | None) -> Path:
    """The file named, or that of the settings."""
    return ledger or load_settings(config, os.environ).store.path / LEDGER_FILE


def reference(prices: Prices, against: str | None) -> str:
    """The frontier model to compare with. Raises `UsageError` when the list leaves it open."""
    if against is not None:
        return against
    if len(prices.frontier) == 1:
        return next(iter(prices.frontier))
    names = ", ".join(prices.frontier) or "none"
    raise UsageError(f"name the frontier model to compare with by --against; the list has {names}")
