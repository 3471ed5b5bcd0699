"""The parts of a router, from settings: prices, budgets, counters of energy, files.

Rules
- What the settings name must be there: each function raises `ConfigError` where it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from edge_runtime.cache.contract import CacheLimits
from edge_runtime.cache.exact import ExactCache
from edge_runtime.config import Settings
from edge_runtime.errors import ConfigError
from edge_runtime.ledger.budget import BOX_SCOPE, Expiry, Limit, Period
from edge_runtime.ledger.energy.counters import EnergyReader, Unavailable
from edge_runtime.ledger.energy.nvml import NvmlReader, import_nvml
from edge_runtime.ledger.energy.rapl import RaplReader
from edge_runtime.ledger.ledger import BudgetRules, Ledger
from edge_runtime.ledger.money import nano_from_decimal
from edge_runtime.ledger.prices import LocalPrice, Prices, load_prices
from edge_runtime.ledger.rollup import Retention
from edge_runtime.router.settings import BudgetSettings, EnergySettings

LEDGER_FILE = Path("ledger") / "ledger.db"
CACHE_FILE = Path("cache") / "exact.db"
SHIPPED_PRICES = Path(__file__).parents[1] / "ledger" / "prices-2026-06.toml"


def prices_of(settings: Settings) -> Prices:
    """The price list, with what `[energy]` sets in place of its `[local]`.

    Raises `ConfigError`, also for a configured frontier without a price.
    """
    prices = load_prices(
        settings.prices.file or SHIPPED_PRICES, settings.prices.override, settings.prices.table
    )
    prices.require(one.price_key for one in settings.frontiers.values())
    return replace(prices, local=_local(prices.local, settings.energy))


def _local(local: LocalPrice, energy: EnergySettings) -> LocalPrice:
    changes: dict[str, int] = {}
    if energy.busy_watts is not None:
        changes["busy_milliwatts"] = int(energy.busy_watts * 1000)
    if energy.idle_watts is not None:
        changes["idle_milliwatts"] = int(energy.idle_watts * 1000)
    if energy.tariff_per_kwh is not None:
        changes["tariff_nano_per_kwh"] = nano_from_decimal(energy.tariff_per_kwh)
    return replace(local, **changes)


def limits_of(settings: Settings) -> tuple[Limit, ...]:
    """Every budget limit of the settings."""
    budgets = settings.budgets
    tables: list[tuple[str, Decimal | None, Decimal | None]] = [
        (BOX_SCOPE, budgets.day, budgets.month),
        *_tables("tenant", budgets.tenants),
        *_tables("endpoint", budgets.endpoints),
        *_tables("purpose", {"audit": settings.watch.audit.budget}),
    ]
    return tuple(
        Limit(scope, period, nano_from_decimal(money))
        for scope, day, month in tables
        for period, money in ((Period.DAY, day), (Period.MONTH, month))
        if money is not None
    )


def _tables(
    kind: str, named: dict[str, BudgetSettings]
) -> list[tuple[str, Decimal | None, Decimal | None]]:
    return [(f"{kind}:{name}", one.day, one.month) for name, one in named.items()]


def readers_of(energy: EnergySettings) -> list[EnergyReader]:
    """Counters to read. Raises `ConfigError` when the one that is asked for is not there."""
    wanted = {"auto": ("rapl", "nvml"), "rapl": ("rapl",), "nvml": ("nvml",)}
    found: list[EnergyReader] = []
    for name in wanted.get(energy.source, ()):
        reader: EnergyReader | Unavailable = RaplReader() if name == "rapl" else _nvml()
        reading = reader if isinstance(reader, Unavailable) else reader.read()
        if not isinstance(reading, Unavailable) and not isinstance(reader, Unavailable):
            found.append(reader)
        elif energy.source != "auto":
            assert isinstance(reading, Unavailable)
            raise ConfigError(f"energy.source {energy.source}: {reading.reason}")
    return found


def _nvml() -> NvmlReader | Unavailable:
    module = import_nvml()
    return module if isinstance(module, Unavailable) else NvmlReader(module)


def budget_rules_of(settings: Settings) -> BudgetRules:
    """What budgets allow, and how long money is held."""
    budgets = settings.budgets
    return BudgetRules(limits_of(settings), budgets.hold_s, Expiry(budgets.expiry))


def exact_limits_of(settings: Settings) -> CacheLimits:
    """How much the exact cache may keep."""
    exact = settings.cache.exact
    return CacheLimits(exact.max_bytes, exact.max_entry_bytes)


def open_exact_cache(settings: Settings) -> ExactCache:
    """The exact cache of the settings. Raises `ConfigError`; blocks on the disk."""
    path = settings.cache.exact.path or settings.store.path / CACHE_FILE
    return ExactCache.open(path, limits=exact_limits_of(settings))


def open_ledger(settings: Settings, wall_us: Callable[[], int]) -> Ledger:
    """The ledger of the settings. Raises `ConfigError`, `EngineError`; blocks on the disk."""
    kept, rules = settings.ledger, budget_rules_of(settings)
    return Ledger.open(
        kept.path or settings.store.path / LEDGER_FILE,
        limits=rules.limits,
        hold_s=rules.hold_s,
        expiry=rules.expiry,
        retention=Retention(
            detail_days=kept.detail_days,
            max_detail_rows=kept.max_detail_rows,
            day_rollup_days=kept.day_rollup_days,
        ),
        clock=wall_us,
    )
