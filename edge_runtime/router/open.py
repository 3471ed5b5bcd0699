"""Open the router of a daemon from its settings, and close it again.

Rules
- What the settings name must be there: a frontier without a price or key, a key that cannot be
  read, a ledger that cannot be opened stop the start with a `ConfigError`.
- The ledger is closed last: everything else may still write to it.
- One task, `router-upkeep`, reads counters, books idle energy, expires reservations and reads the
  certificates' folder again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Final

import structlog

from edge_runtime.cache.contract import CacheLimits
from edge_runtime.cache.exact import ExactCache
from edge_runtime.config import Settings
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.ledger.budget import BOX_SCOPE, Expiry, Limit, Period
from edge_runtime.ledger.energy.counters import EnergyReader, Unavailable
from edge_runtime.ledger.energy.nvml import NvmlReader, import_nvml
from edge_runtime.ledger.energy.rapl import RaplReader
from edge_runtime.ledger.ledger import Ledger, now_us
from edge_runtime.ledger.money import nano_from_decimal
from edge_runtime.ledger.prices import LocalPrice, Prices, load_prices
from edge_runtime.ledger.rollup import Retention
from edge_runtime.metrics import Metrics
from edge_runtime.router.booking import Till
from edge_runtime.router.contract import FrontierLike
from edge_runtime.router.energy import EnergyMeter
from edge_runtime.router.frontier.capture import Capture
from edge_runtime.router.frontier.pool import FrontierPool
from edge_runtime.router.plan import Directory
from edge_runtime.router.router import Router
from edge_runtime.router.settings import BudgetSettings, EnergySettings
from edge_runtime.router.trust import CertificateBook
from edge_runtime.router.watch.meter import MeteredListener
from edge_runtime.router.watch.state import FileWatchStore
from edge_runtime.router.watch.surroundings import Surroundings
from edge_runtime.router.watch.watch import Watch

log: Final = structlog.get_logger("edge_runtime.router")

LEDGER_FILE = Path("ledger") / "ledger.db"
CACHE_FILE = Path("cache") / "exact.db"
WATCH_FILE = Path("watch") / "state.json"
SHIPPED_PRICES = Path(__file__).parents[1] / "ledger" / "prices-2026-06.toml"


def local_router(metrics: Metrics) -> Router:
    """A router that only answers here, and keeps no ledger."""
    till = Till(None, EnergyMeter(LocalPrice()), LocalPrice(), now_us)
    return Router(Directory(), till, metrics)


def prices_of(settings: Settings) -> Prices:
    """The price list, with what `[energy]` sets in place of its `[local]`.

    Raises `ConfigError`, also for a configured frontier without a price.
    """
    prices = load_prices(settings.prices.file or SHIPPED_PRICES, settings.prices.override)
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


@contextlib.asynccontextmanager
async def open_router(
    settings: Settings,
    metrics: Metrics,
    *,
    frontiers: FrontierLike | None = None,
    digest_of: Callable[[str], str | None] = lambda _: None,
    wall_us: Callable[[], int] = now_us,
) -> AsyncIterator[Router]:
    """The router with its ledger, cache, certificates and frontiers. See the module's rules.

    `frontiers` stands in for the configured ones, in tests. Opening reads files: milliseconds.
    """
    prices = prices_of(settings)
    async with contextlib.AsyncExitStack() as stack:
        ledger = None
        if settings.ledger.enabled:
            ledger = await asyncio.to_thread(_open_ledger, settings, wall_us)
            stack.push_async_callback(asyncio.to_thread, ledger.close)
        meter = EnergyMeter(
            prices.local,
            await asyncio.to_thread(readers_of, settings.energy),
            assume=settings.energy.source in ("auto", "assumption"),
        )
        till = Till(
            ledger,
            meter,
            prices.local,
            wall_us,
            prices.currency,
            prices.version,
            settings.ledger.wait_for_disk,
            lambda: metrics.count("edge_ledger_rows_lost_total"),
        )
        book = CertificateBook(settings.certificates)
        await asyncio.to_thread(book.reload)
        pool = frontiers
        if pool is None and settings.frontiers and ledger is not None:
            pool = await _open_frontiers(stack, settings, prices, ledger, metrics)
        router = Router(
            directory=Directory(
                settings.router,
                settings.endpoints,
                () if pool is None else pool.names(),
                settings.router.drift == "hold",
            ),
            till=till,
            metrics=metrics,
            book=book,
            settings=settings.router,
            frontiers=pool,
            exact_ttl_s=settings.cache.exact.ttl_s,
        )
        if settings.cache.exact.enabled:
            cache = await asyncio.to_thread(_open_cache, settings)
            stack.push_async_callback(asyncio.to_thread, cache.close)
            router.exact = cache
        await _open_watch(stack, settings, router, digest_of)
        upkeep = asyncio.create_task(_upkeep(router, settings, ledger), name="router-upkeep")
        try:
            yield router
        finally:
            upkeep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await upkeep
            await router.finish_background(cancel=True)


def _open_ledger(settings: Settings, wall_us: Callable[[], int]) -> Ledger:
    kept = settings.ledger
    return Ledger.open(
        kept.path or settings.store.path / LEDGER_FILE,
        limits=limits_of(settings),
        hold_s=settings.budgets.hold_s,
        expiry=Expiry(settings.budgets.expiry),
        retention=Retention(
            detail_days=kept.detail_days,
            max_detail_rows=kept.max_detail_rows,
            day_rollup_days=kept.day_rollup_days,
        ),
        clock=wall_us,
    )


def _open_cache(settings: Settings) -> ExactCache:
    exact = settings.cache.exact
    limits = CacheLimits(exact.max_bytes, exact.max_entry_bytes)
    return ExactCache.open(exact.path or settings.store.path / CACHE_FILE, limits=limits)


async def _open_frontiers(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    prices: Prices,
    ledger: Ledger,
    metrics: Metrics,
) -> FrontierLike:
    scopes = [limit.scope for limit in limits_of(settings)]
    capture = None
    if settings.capture.enabled:
        capture = stack.enter_context(Capture(settings.capture, meter=metrics))
    pool = FrontierPool(
        settings.frontiers, prices, ledger, scopes=scopes, meter=metrics, capture=capture
    )
    return await stack.enter_async_context(pool)


async def _open_watch(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    router: Router,
    digest_of: Callable[[str], str | None],
) -> None:
    """The watch runs where certificates may be trusted and a frontier may be asked."""
    if settings.certificates.directory is None or router.frontiers is None:
        return
    store = FileWatchStore(settings.store.path / WATCH_FILE)
    around = Surroundings(
        ledger=router.till.ledger,
        digest_of=digest_of,
        listener=MeteredListener(router.metrics),
        clock=router.till.now_us,
    )
    watch = Watch(settings.watch, router.frontiers, store, around)
    await stack.enter_async_context(watch.running())
    router.watch = watch
    router.tell_watch()


async def _upkeep(router: Router, settings: Settings, ledger: Ledger | None) -> None:
    """Every period: energy, expiry, certificates. A fault of one does not stop the others."""
    due = {"energy": 0.0, "certificates": time.monotonic() + settings.certificates.reload_s}
    pause_s = min(settings.energy.period_s, settings.certificates.reload_s)
    while True:
        now_s = time.monotonic()
        if now_s >= due["energy"]:
            due["energy"] = now_s + settings.energy.period_s
            await _try("energy", lambda: asyncio.to_thread(_book_energy, router))
            if ledger is not None:
                await _try("expiry", lambda: asyncio.wrap_future(ledger.expire()))
        if now_s >= due["certificates"]:
            due["certificates"] = now_s + settings.certificates.reload_s
            await _try("certificates", lambda: asyncio.to_thread(router.book.reload))
            router.tell_watch()
        await asyncio.sleep(pause_s)


def _book_energy(router: Router) -> None:
    till = router.till
    idle = till.meter.period(till.now_us(), round(router.metrics.busy_seconds() * 1e6))
    if idle is not None and idle.energy_uj:
        till.idle(idle)


async def _try(what: str, work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except (EdgeError, OSError) as error:
        log.error("upkeep failed", action="upkeep_failed", part=what, reason=str(error))  # noqa: TRY400
