"""`edge-runtime cost reconcile`: settle guesses by a frontier's own statement."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from edge_runtime.cli_options import ConfigFile, settings_of
from edge_runtime.errors import ConfigError, UsageError
from edge_runtime.ledger.database import explained, open_reader, open_writer
from edge_runtime.ledger.ledger import now_us
from edge_runtime.ledger.money import format_money
from edge_runtime.ledger.options import (
    AsJson,
    LedgerFile,
    OverrideFile,
    PriceFile,
    Since,
    ledger_path,
    parse_since,
    price_list,
    refusals,
)
from edge_runtime.ledger.prices import FrontierPrice, Prices
from edge_runtime.ledger.reconcile import Call, Match, match
from edge_runtime.ledger.reconcile_sql import apply, calls
from edge_runtime.ledger.statement import StatementError, StatementLine, read_statement

MAX_STATEMENT_BYTES = 256 * 1024 * 1024
SHOWN = 20


def reconcile(
    statement: Annotated[Path, typer.Argument(help="The frontier's statement: JSON or CSV.")],
    *,
    config: ConfigFile = None,
    ledger: LedgerFile = None,
    prices: PriceFile = None,
    override: OverrideFile = None,
    since: Since = "62d",
    frontier: Annotated[
        str, typer.Option(help="Frontier that the statement is of; the settings' only one.")
    ] = "",
    column: Annotated[
        list[str] | None,
        typer.Option(help="Where a column has another name: NAME=KNOWN, such as Price=cost."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Settle calls booked by a guess by the frontier's statement, and list what does not match.

    Ends with status 1 when the statement names calls or money that the ledger has not.
    """
    with refusals():
        listed = price_list(prices, override, config)
        keys = {name: one.price_key for name, one in settings_of(config).frontiers.items()}
        of = frontier or (next(iter(keys)) if len(keys) == 1 else "frontier")

        def price_of(model: str) -> FrontierPrice | None:
            return _price(listed, keys.get(model or of, model or of))

        lines = _lines(statement, column or [])
        path = ledger_path(ledger, config)
        now = now_us()
        with open_reader(path) as reader, explained(path):
            found = match(calls(reader, parse_since(since, now), now), lines, price_of)
        settled = len(found.settle)
        if not dry_run and found.settle:
            settled = _apply(path, found, price_of, of)
    if as_json:
        typer.echo(json.dumps(_as_json(found, settled), indent=2))
    else:
        _say(found, settled, "units" if listed is None else listed.currency, dry=dry_run)
    if not found.clean:
        raise typer.Exit(1)


def _apply(
    path: Path, found: Match, price_of: Callable[[str], FrontierPrice | None], model: str
) -> int:
    connection = open_writer(path)
    try:
        with explained(path):
            return apply(connection, found, price_of, model=model, now_us=now_us())
    finally:
        connection.close()


def _lines(path: Path, columns: Sequence[str]) -> list[StatementLine]:
    renamed = {}
    for one in columns:
        theirs, found, known = one.partition("=")
        if not found:
            raise UsageError(f"--column {one}: write NAME=KNOWN, such as Price=cost")
        renamed[theirs] = known
    try:
        if path.stat().st_size > MAX_STATEMENT_BYTES:
            raise UsageError(f"{path}: larger than {MAX_STATEMENT_BYTES} bytes; split it")
        return read_statement(path.read_text("utf-8-sig"), renamed=renamed)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except StatementError as error:
        raise UsageError(f"{path}: {error}") from error


def _price(listed: Prices | None, key: str) -> FrontierPrice | None:
    if listed is None:
        return None
    try:
        return listed.of(key)
    except ConfigError:
        return None


def _say(found: Match, settled: int, currency: str, *, dry: bool) -> None:
    console = Console()

    def told(text: str, names: Sequence[str] = ()) -> None:
        console.print(text, markup=False, highlight=False)
        for name in names[:SHOWN]:
            console.print(f"  {name}", markup=False, highlight=False, soft_wrap=True)
        if len(names) > SHOWN:
            console.print(f"  and {len(names) - SHOWN} more (--json lists all)", markup=False)

    told(
        f"{found.agreed:,} calls agree; {settled:,} guesses {'would be' if dry else 'were'} settled"
    )
    money = [
        f"{call.call_id} ({call.model}): the ledger has {format_money(call.nano, currency)}, "
        f"the statement {format_money(nano, currency)}"
        for call, nano in found.differing
    ]
    for text, names in (
        ("booked by the frontier's own usage, and the statement says otherwise:", money),
        ("in the statement, not in the ledger:", [one.ids[0] for one in found.unknown]),
        ("named more than once in the statement, left alone:", _ids(found.twice)),
        ("tokens without a price; name the price list with --prices:", _ids(found.unpriced)),
        ("still a guess; the statement does not name them:", _ids(found.missing)),
    ):
        if names:
            told(f"{len(names):,} {text}", names)


def _ids(found: Sequence[Call]) -> list[str]:
    return [one.call_id for one in found]


def _as_json(found: Match, settled: int) -> dict[str, Any]:
    return {
        "agreed": found.agreed,
        "settled": settled,
        "differing": [
            {"call_id": call.call_id, "model": call.model, "nano": call.nano, "statement": nano}
            for call, nano in found.differing
        ],
        "unknown": [one.ids[0] for one in found.unknown],
        "twice": _ids(found.twice),
        "unpriced": _ids(found.unpriced),
        "missing": _ids(found.missing),
    }
