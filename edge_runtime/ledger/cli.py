"""`edge-runtime cost`, `breakeven` and `replay`: read the ledger, also while the daemon runs.

Exit status: 0 done, 1 refused (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edge_runtime.cli_options import ConfigFile
from edge_runtime.errors import UsageError
from edge_runtime.ledger.breakeven import BreakEven, break_even
from edge_runtime.ledger.database import explained, open_reader
from edge_runtime.ledger.ledger import now_us
from edge_runtime.ledger.money import format_money
from edge_runtime.ledger.options import (
    Against,
    AsJson,
    LedgerFile,
    OverrideFile,
    PriceFile,
    Since,
    ledger_path,
    parse_since,
    price_list,
    reference,
    refusals,
    required,
)
from edge_runtime.ledger.prices import Prices, load_prices
from edge_runtime.ledger.queries import By, lines, task_costs
from edge_runtime.ledger.reconcile_cli import reconcile
from edge_runtime.ledger.replay_cli import replay
from edge_runtime.ledger.report import NAMES, Line, Savings, savings


class Per(enum.StrEnum):
    """What money is divided by."""

    REQUEST = "request"
    TASK = "task"


def register(app: typer.Typer) -> None:
    """Add the ledger's commands to the program."""
    costs = typer.Typer(invoke_without_command=True)
    costs.callback()(cost)
    costs.command()(reconcile)
    app.add_typer(costs, name="cost")
    app.command()(breakeven)
    app.command()(replay)


def cost(
    context: typer.Context,
    *,
    config: ConfigFile = None,
    ledger: LedgerFile = None,
    prices: PriceFile = None,
    override: OverrideFile = None,
    against: Against = None,
    since: Since = "30d",
    by: Annotated[By, typer.Option(help="What to break down by.")] = By.TOTAL,
    per: Annotated[Per, typer.Option(help="What to divide the money by.")] = Per.REQUEST,
    as_json: AsJson = False,
) -> None:
    """Say what answers cost, and what answering here saved."""
    if context.invoked_subcommand is not None:
        return
    with refusals():
        listed = price_list(prices, override, config)
        # A list of the settings may hold many: then savings wait for --against.
        price = reference(listed, against)
        if prices is not None and listed is not None and listed.frontier:
            price = required(listed, against)
        start = parse_since(since, now_us())
        with open_reader(ledger_path(ledger, config)) as reader, explained("ledger"):
            groups = lines(reader, by, start)
            total = sum(groups.values(), Line())
            saved = None
            if price is not None:
                saved = savings(
                    task_costs(reader, price, start),
                    actual_nano=total.cost_nano,
                    all_frontier_nano=total.all_frontier_nano(price),
                )
    if as_json:
        typer.echo(json.dumps(_cost_json(groups, total, saved, listed), indent=2))
        return
    currency = listed.currency if listed is not None else "units"
    console = Console()
    console.print(_cost_table(groups, total, by, per, currency))
    console.print(_energy_text(total), markup=False)
    if saved is not None:
        console.print(_savings_text(saved, currency), markup=False)


def breakeven(
    *,
    prices: Annotated[Path, typer.Option("--prices", help="Price list (TOML) with [local].")],
    config: ConfigFile = None,
    ledger: LedgerFile = None,
    override: OverrideFile = None,
    against: Against = None,
    since: Since = "30d",
    local_share: Annotated[
        float | None,
        typer.Option(help="Share answered here, as a certificate says; else the ledger's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say from how many requests a month on this box pays for itself."""
    with refusals():
        listed = load_prices(prices, override)
        price = required(listed, against)
        with open_reader(ledger_path(ledger, config)) as reader, explained("ledger"):
            total = sum(lines(reader, By.TOTAL, parse_since(since, now_us())).values(), Line())
        if not total.answered or not total.requests:
            raise UsageError("the ledger has no answers in this while; take a longer --since")
        here = (total.from_cache + total.from_local) / total.answered
        try:
            result = break_even(
                listed.local,
                local_share=here if local_share is None else local_share,
                frontier_nano=total.all_frontier_nano(price) / total.answered,
                local_nano=total.work_energy_nano / total.requests,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
    if as_json:
        typer.echo(json.dumps(_break_even_json(result, listed), indent=2))
        return
    Console().print(_break_even_table(result, listed.currency))


def _cost_table(groups: dict[str, Line], total: Line, by: By, per: Per, currency: str) -> Table:
    table = Table("" if by is By.TOTAL else by.value)
    for name in ("requests", "here", "tasks", "resolved", "tokens in", "out", "frontier"):
        table.add_column(name, justify="right")
    for name in ("energy", "hardware", "cost", f"per {_per_name(per)}"):
        table.add_column(name, justify="right")
    rows = [] if by is By.TOTAL else [(label or "(none)", line) for label, line in groups.items()]
    for label, line in [*rows, ("total", total)]:
        here = (line.from_cache + line.from_local) / line.answered if line.answered else None
        each = line.per_request_nano if per is Per.REQUEST else line.per_resolved_nano
        table.add_row(
            label,
            f"{line.requests:,}",
            "-" if here is None else f"{here:.0%}",
            f"{line.tasks:,}",
            f"{line.resolved:,}",
            f"{line.tokens_in:,}",
            f"{line.tokens_out:,}",
            *(
                format_money(one, currency)
                for one in (line.frontier_nano, line.energy_nano, line.hardware_nano)
            ),
            format_money(line.cost_nano, currency),
            "-" if each is None else format_money(each, currency, decimals=6),
        )
    return table


def _per_name(per: Per) -> str:
    return "request" if per is Per.REQUEST else "resolved task"


def _energy_text(total: Line) -> str:
    parts = (
        ("counter", total.counter_uj),
        ("model", total.model_uj),
        ("assumption", total.assumption_uj),
    )
    by_source = ", ".join(f"{uj / 1e6:,.1f} J by {name}" for name, uj in parts if uj)
    text = f"energy: {by_source or 'not known'}; {total.idle_uj / 1e6:,.1f} J of it idle"
    if total.unsettled_nano:
        text += (
            "\nsome calls are charged at their worst case: nobody saw how they ended "
            "(settle them by the frontier's statement: cost reconcile)"
        )
    return text


def _savings_text(saved: Savings, currency: str) -> str:
    if saved.share is None:
        return "savings: nothing was answered in this while"
    text = (
        f"against all-frontier ({format_money(saved.all_frontier_nano, currency)}): "
        f"saved {format_money(saved.saved_nano, currency)}, {saved.share:.1%}"
    )
    if saved.low is None or saved.high is None:
        return f"{text}; {saved.tasks} tasks are too few for an interval"
    return (
        f"{text} ({saved.confidence:.0%} interval {saved.low:.1%} to {saved.high:.1%}, "
        f"{saved.tasks:,} tasks)"
    )


def _cost_json(
    groups: dict[str, Line], total: Line, saved: Savings | None, prices: Prices | None
) -> dict[str, Any]:
    return {
        "currency": None if prices is None else prices.currency,
        "prices": None if prices is None else prices.version,
        "total": _line_json(total),
        "groups": {label: _line_json(line) for label, line in groups.items()},
        "savings": None
        if saved is None
        else {
            "actual_nano": saved.actual_nano,
            "all_frontier_nano": saved.all_frontier_nano,
            "saved_nano": saved.saved_nano,
            "share": saved.share,
            "low": saved.low,
            "high": saved.high,
            "confidence": saved.confidence,
            "tasks": saved.tasks,
        },
    }


def _line_json(line: Line) -> dict[str, Any]:
    return {name: getattr(line, name) for name in NAMES} | {
        "cost_nano": line.cost_nano,
        "per_request_nano": line.per_request_nano,
        "per_resolved_nano": line.per_resolved_nano,
    }


def _break_even_json(result: BreakEven, prices: Prices) -> dict[str, Any]:
    return {
        "currency": prices.currency,
        "prices": prices.version,
        "requests_per_month": result.requests,
        "fixed_nano": result.fixed_nano,
        "hardware_nano": result.hardware_nano,
        "idle_nano": result.idle_nano,
        "operations_nano": result.operations_nano,
        "local_share": result.local_share,
        "frontier_nano": result.frontier_nano,
        "local_nano": result.local_nano,
    }


def _break_even_table(result: BreakEven, currency: str) -> Table:
    table = Table("what", "value")
    rows = (
        ("hardware a month", format_money(result.hardware_nano, currency)),
        ("idle energy a month", format_money(result.idle_nano, currency)),
        ("operations a month", format_money(result.operations_nano, currency)),
        ("share answered here", f"{result.local_share:.1%}"),
        ("a request at the frontier", _small(result.frontier_nano, currency)),
        ("energy of a request here", _small(result.local_nano, currency)),
        ("gain a request", _small(result.gain_nano, currency)),
        (
            "break-even requests a month",
            "never: a request gains nothing"
            if result.requests is None
            else f"{result.requests:,.0f}",
        ),
    )
    for name, value in rows:
        table.add_row(name, value)
    return table


def _small(nano: float, currency: str) -> str:
    return format_money(round(nano), currency, decimals=6)
