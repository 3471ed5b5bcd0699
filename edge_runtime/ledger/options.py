"""What the ledger's commands share: their options, and how they refuse."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge_runtime.cli_options import settings_of
from edge_runtime.errors import EdgeError, UsageError
from edge_runtime.ledger.prices import FrontierPrice, Prices, load_prices
from edge_runtime.ledger.rows import US_PER_DAY

LEDGER_FILE = Path("ledger") / "ledger.db"  # below the store

LedgerFile = Annotated[
    Path | None, typer.Option("--ledger", help="Ledger file; by default in the store's folder.")
]
PriceFile = Annotated[
    Path | None, typer.Option("--prices", help="Price list (TOML); by default the settings'.")
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
    if ledger is not None:
        return ledger
    settings = settings_of(config)
    return settings.ledger.path or settings.store.path / LEDGER_FILE


def price_list(prices: Path | None, override: Path | None, config: Path | None) -> Prices | None:
    """The list named, or that of the settings; None where neither names one."""
    if prices is None:
        named = settings_of(config).prices
        prices, override = named.file, override or named.override
    return None if prices is None else load_prices(prices, override)


def reference(prices: Prices | None, against: str | None) -> FrontierPrice | None:
    """The price of the frontier model to compare with; None where nobody says which.

    That is `against`, or the list's only one. Raises `ConfigError` for one without a price.
    """
    if prices is None:
        return None
    if against is not None:
        return prices.of(against)
    return next(iter(prices.frontier.values())) if len(prices.frontier) == 1 else None


def required(prices: Prices, against: str | None) -> FrontierPrice:
    """As `reference`. Raises `UsageError` when the list leaves it open."""
    price = reference(prices, against)
    if price is None:
        names = ", ".join(prices.frontier) or "none"
        raise UsageError(
            f"name the frontier model to compare with by --against; the list has {names}"
        )
    return price
