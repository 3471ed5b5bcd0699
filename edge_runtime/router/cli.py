"""`edge-runtime doctor` and `edge-runtime inventory`: read settings and store, change nothing.

Exit status: 0 nothing is wrong, 1 something is (or the settings are refused), 2 wrong usage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_runtime.bundle.digests import model_digest
from edge_runtime.bundle.files import RealFiles
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.bundle.pointers import Pointers
from edge_runtime.cli_options import ConfigFile, StorePath, settings_of
from edge_runtime.config import Settings
from edge_runtime.errors import BundleError, ConfigError, EdgeError
from edge_runtime.ledger.database import explained, open_reader
from edge_runtime.ledger.ledger import now_us
from edge_runtime.ledger.options import LEDGER_FILE
from edge_runtime.ledger.reconcile_sql import calls
from edge_runtime.ledger.rows import US_PER_DAY
from edge_runtime.router.doctor import (
    Facts,
    Finding,
    Guessed,
    Installed,
    Level,
    examine,
)
from edge_runtime.router.frontier.lane import target_of
from edge_runtime.router.frontier.ordering import Choice, arranged
from edge_runtime.router.inventory import inventory
from edge_runtime.router.parts import prices_of
from edge_runtime.router.trust import CertificateBook, utc_now

MONTH_US = 31 * US_PER_DAY
_STYLES = {Level.WRONG: "bold red", Level.MISSING: "yellow", Level.NOTE: ""}

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def register(app: typer.Typer) -> None:
    """Add the router's commands to the program."""
    app.command()(doctor)
    app.command("inventory")(show_inventory)


def doctor(config: ConfigFile = None, store: StorePath = None, *, as_json: AsJson = False) -> None:
    """Say what is wrong or missing: models, certificates, prices, keys, budgets."""
    facts = _facts(config, store)
    found = examine(facts)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        _say(facts, found, config)
    if any(one.level is Level.WRONG for one in found):
        raise typer.Exit(1)


def _say(facts: Facts, found: Sequence[Finding], config: Path | None) -> None:
    """For people: what was looked at, what was found, and what the words mean."""
    console = Console()

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    settings = facts.settings
    line(f"settings: {config or 'none named (--config FILE): the defaults'}")
    line(
        f"store: {settings.store.path}; active models: {', '.join(sorted(facts.models)) or 'none'}"
    )
    line(
        f"endpoints: {', '.join(settings.endpoints) or 'none'}; "
        f"frontiers: {', '.join(settings.frontiers) or 'none'}"
    )
    if not found:
        line("nothing is wrong, nothing is missing")
        return
    table = Table("", "where", "what")
    for one in found:
        table.add_row(Text(str(one.level), _STYLES[one.level]), one.where, one.what)
    console.print(table, markup=False)
    counts = ", ".join(f"{sum(one.level is level for one in found)} {level}" for level in Level)
    line(f"{counts} (wrong: does not work as it is set; missing: could work better)")


def show_inventory(
    config: ConfigFile = None, store: StorePath = None, *, as_json: AsJson = False
) -> None:
    """List every name a request may use: who answers, why, and at what price."""
    facts = _facts(config, store)
    lines = inventory(facts, _order(facts))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in lines], indent=2))
        return
    table = Table("endpoint", "policy", "model", "reason", "frontier", "in / out a million tokens")
    for one in lines:
        table.add_row(one.endpoint, one.policy, one.model, one.reason, one.frontier, one.price)
    Console().print(table, markup=False)


def _facts(config: Path | None, store: Path | None) -> Facts:
    try:
        settings = settings_of(config, store)
    except EdgeError as error:
        Console(stderr=True).print(f"edge-runtime: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    faults: dict[str, str] = {}
    prices = None
    try:
        prices = prices_of(settings)
    except ConfigError as error:
        faults["prices"] = str(error)
    book = CertificateBook(settings.certificates)
    try:
        book.reload()
    except ConfigError as error:
        faults["certificates"] = str(error)
    for name, frontier in settings.frontiers.items():
        try:
            target_of(name, frontier)
        except ConfigError as error:
            faults[f"frontiers.{name}"] = str(error).removeprefix(f"frontiers.{name}: ")
    sets = [one.evaluation_set for one in settings.endpoints.values()]
    absent = frozenset(str(one) for one in sets if one is not None and not one.exists())
    models, guessed = _installed(settings, faults), _guessed(settings, faults)
    return Facts(settings, models, book, prices, utc_now(), faults, guessed, absent)


def _guessed(settings: Settings, faults: dict[str, str]) -> Guessed | None:
    path = settings.ledger.path or settings.store.path / LEDGER_FILE
    if not settings.ledger.enabled or not path.is_file():
        return None
    try:
        with open_reader(path) as reader, explained(path):
            now = now_us()
            open_now = [one.nano for one in calls(reader, now - MONTH_US, now) if one.open]
    except EdgeError as error:
        faults["ledger"] = str(error)
        return None
    return Guessed(len(open_now), sum(open_now))


def _installed(settings: Settings, faults: dict[str, str]) -> dict[str, Installed]:
    root, files = settings.store.path, RealFiles()
    pointers = Pointers(root / "active", files)
    found: dict[str, Installed] = {}
    for name in pointers.names() if (root / "active").is_dir() else ():
        try:
            pointer = pointers.read(name)
            if pointer is None:
                continue
            manifest = load_manifest(root / "bundles" / pointer.bundle_digest, files)
        except BundleError as error:
            faults[f"store: {name}"] = str(error)
            continue
        names = [variant.name for variant in manifest.variants]
        option = settings.models.options.get(name)
        wanted = (option and option.variant) or settings.models.default_variant
        variant = wanted if wanted in names else names[0]
        found[name] = Installed(manifest, model_digest(manifest, variant))
    return found


def _order(facts: Facts) -> tuple[str, ...]:
    if facts.prices is None:
        return tuple(facts.settings.frontiers)
    prices = facts.prices
    return arranged(
        Choice(name, prices.of(one.price_key), one.order)
        for name, one in facts.settings.frontiers.items()
    )
