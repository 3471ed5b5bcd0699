"""`edge-runtime doctor` and `edge-runtime inventory`: read settings and store, change nothing.

Exit status: 0 nothing is wrong, 1 something is (or the settings are refused), 2 wrong usage.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from edge_runtime.bundle.digests import model_digest
from edge_runtime.bundle.files import RealFiles
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.bundle.pointers import Pointers
from edge_runtime.cli_options import ConfigFile, StorePath, settings_of
from edge_runtime.config import Settings
from edge_runtime.errors import BundleError, ConfigError, EdgeError
from edge_runtime.router.doctor import Facts, Installed, Level, examine, inventory
from edge_runtime.router.frontier.lane import target_of
from edge_runtime.router.frontier.ordering import Choice, arranged
from edge_runtime.router.parts import prices_of
from edge_runtime.router.trust import CertificateBook, utc_now

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def register(app: typer.Typer) -> None:
    """Add the router's commands to the program."""
    app.command()(doctor)
    app.command("inventory")(show_inventory)


def doctor(config: ConfigFile = None, store: StorePath = None, *, as_json: AsJson = False) -> None:
    """Say what is wrong or missing: models, certificates, prices, keys, budgets."""
    found = examine(_facts(config, store))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    elif not found:
        typer.echo("nothing is wrong, nothing is missing")
    else:
        table = Table("", "where", "what")
        for one in found:
            table.add_row(str(one.level), one.where, one.what)
        Console().print(table, markup=False)
    if any(one.level is Level.WRONG for one in found):
        raise typer.Exit(1)


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
            faults[f"frontiers.{name}"] = str(error)
    sets = [one.evaluation_set for one in settings.endpoints.values()]
    absent = frozenset(str(one) for one in sets if one is not None and not one.exists())
    return Facts(settings, _installed(settings, faults), book, prices, utc_now(), faults, absent)


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
