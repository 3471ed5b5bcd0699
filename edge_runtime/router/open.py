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
from pathlib import Path
from typing import Final

import structlog

from edge_runtime.config import Settings
from edge_runtime.errors import EdgeError
from edge_runtime.ledger.ledger import Ledger, now_us
from edge_runtime.ledger.prices import LocalPrice, Prices
from edge_runtime.metrics import Metrics
from edge_runtime.router.contract import FrontierLike
from edge_runtime.router.energy import EnergyMeter
from edge_runtime.router.frontier.capture import Capture
from edge_runtime.router.frontier.pool import FrontierPool
from edge_runtime.router.live import Routing, directory_of
from edge_runtime.router.parts import (
    limits_of,
    open_exact_cache,
    open_ledger,
    prices_of,
    readers_of,
)
from edge_runtime.router.plan import Directory
from edge_runtime.router.router import Router
from edge_runtime.router.till import Till
from edge_runtime.router.trust import CertificateBook
from edge_runtime.router.watch.meter import MeteredListener
from edge_runtime.router.watch.state import FileWatchStore
from edge_runtime.router.watch.surroundings import Surroundings
from edge_runtime.router.watch.watch import Watch

log: Final = structlog.get_logger("edge_runtime.router")

WATCH_FILE = Path("watch") / "state.json"


def local_router(metrics: Metrics) -> Router:
    """A router that only answers here, and keeps no ledger."""
    till = Till(None, EnergyMeter(LocalPrice()), LocalPrice(), now_us)
    return Router(Directory(), till, metrics)


@contextlib.asynccontextmanager
async def open_router(
    settings: Settings,
    metrics: Metrics,
    *,
    frontiers: FrontierLike | None = None,
    digest_of: Callable[[str], str | None] = lambda _: None,
    wall_us: Callable[[], int] = now_us,
) -> AsyncIterator[Router]:
    """The router of `open_routing`, for those whose settings stay as they are."""
    async with open_routing(
        settings, metrics, frontiers=frontiers, digest_of=digest_of, wall_us=wall_us
    ) as routing:
        yield routing.router


@contextlib.asynccontextmanager
async def open_routing(
    settings: Settings,
    metrics: Metrics,
    *,
    frontiers: FrontierLike | None = None,
    digest_of: Callable[[str], str | None] = lambda _: None,
    wall_us: Callable[[], int] = now_us,
) -> AsyncIterator[Routing]:
    """The router with its ledger, cache, certificates and frontiers. See the module's rules.

    `frontiers` stands in for the configured ones, in tests. Opening reads files: milliseconds.
    """
    prices = prices_of(settings)
    async with contextlib.AsyncExitStack() as stack:
        ledger = None
        if settings.ledger.enabled:
            ledger = await asyncio.to_thread(open_ledger, settings, wall_us)
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
            directory=directory_of(settings, () if pool is None else pool.names()),
            till=till,
            metrics=metrics,
            book=book,
            settings=settings.router,
            frontiers=pool,
            exact_ttl_s=settings.cache.exact.ttl_s,
        )
        routing = Routing(settings, router, ledger, closing=stack)
        if settings.cache.exact.enabled:
            router.exact = routing.cache = await asyncio.to_thread(open_exact_cache, settings)
            stack.push_async_callback(asyncio.to_thread, routing.cache.close)
        await _open_watch(stack, settings, router, digest_of)
        upkeep = asyncio.create_task(_upkeep(routing), name="router-upkeep")
        try:
            yield routing
        finally:
            upkeep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await upkeep
            await router.finish_background(cancel=True)


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


async def _upkeep(routing: Routing) -> None:
    """Every period: energy, expiry, certificates. A fault of one does not stop the others."""
    settings, ledger = routing.started, routing.ledger
    due = {"energy": 0.0, "certificates": time.monotonic() + settings.certificates.reload_s}
    pause_s = min(settings.energy.period_s, settings.certificates.reload_s)
    missing = asyncio.Event()
    routing.router.book.on_missing = missing.set
    while True:
        now_s = time.monotonic()
        if now_s >= due["energy"]:
            due["energy"] = now_s + settings.energy.period_s
            await _try("energy", lambda: asyncio.to_thread(_book_energy, routing.router))
            if ledger is not None:
                await _try("expiry", lambda: asyncio.wrap_future(ledger.expire()))
        if now_s >= due["certificates"] or missing.is_set():
            missing.clear()
            due["certificates"] = now_s + settings.certificates.reload_s
            await _try("certificates", lambda: asyncio.to_thread(routing.router.book.reload))
            routing.router.tell_watch()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await missing.wait()


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
