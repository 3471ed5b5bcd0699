"""The router that counts now, and how settings change while requests run.

Rules
- A change is checked as a whole, and what it needs is opened, before anything of it counts. One
  that is refused, or given up, leaves nothing behind.
- It counts from one step of the event loop to the next. A request keeps the router it began with,
  and with it policy, certificates' alpha, price list and cache; later ones see only the new.
- What the daemon holds open stays as it was started: models, engine, frontiers, ledger, files.
  Settings of these wait for the next start and are named. Where the rest does not fit what stays,
  all of it waits: a document never counts by half.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from edge_runtime.cache.exact import ExactCache
from edge_runtime.cache.semantic.cache import limits_of as semantic_limits_of
from edge_runtime.config import Settings
from edge_runtime.config_file import parse_settings
from edge_runtime.errors import ConfigError
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.prices import Prices
from edge_runtime.router.frontier.pool import FrontierPool
from edge_runtime.router.parts import (
    budget_rules_of,
    exact_limits_of,
    limits_of,
    open_exact_cache,
    prices_of,
)
from edge_runtime.router.plan import Directory
from edge_runtime.router.router import Router
from edge_runtime.router.watch.watch import Watch

log: Final = structlog.get_logger("edge_runtime.router")

LIVE_SECTIONS: Final = frozenset({"router", "endpoints", "budgets", "prices", "watch"})
LIVE_ENERGY: Final = ("busy_watts", "idle_watts", "tariff_per_kwh")

OnChange = Callable[[Router, Settings], None]
"""Told on the event loop which router and settings count from now on; must not raise or block."""


def counts_now(started: Settings, wanted: Settings) -> Settings:
    """What of `wanted` can count in a daemon that was started with `started`.

    Raises `ConfigError` when that does not fit together. Pure.
    """
    exact, semantic = wanted.cache.exact, wanted.cache.semantic
    cache = wanted.cache.model_copy(
        update={
            "exact": exact.model_copy(update={"path": started.cache.exact.path}),
            "semantic": semantic.model_copy(update={"path": started.cache.semantic.path}),
        }
    )
    energy = {name: getattr(wanted.energy, name) for name in LIVE_ENERGY}
    revoked = {"revoked": wanted.certificates.revoked}
    stays = {name: getattr(started, name) for name in Settings.model_fields}
    live = {name: getattr(wanted, name) for name in LIVE_SECTIONS}
    mixed = started.model_copy(
        update={
            **stays,
            **live,
            "cache": cache,
            "energy": started.energy.model_copy(update=energy),
            "certificates": started.certificates.model_copy(update=revoked),
        }
    )
    return parse_settings(mixed.model_dump())


def differing(first: Settings, second: Settings) -> tuple[str, ...]:
    """Keys whose values differ, as `section.key`, sorted. Pure."""
    one = dict(_leaves("", first.model_dump(mode="json")))
    two = dict(_leaves("", second.model_dump(mode="json")))
    return tuple(sorted(key for key in one | two if one.get(key) != two.get(key)))


def _leaves(path: str, value: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _leaves(f"{path}{key}.", inner)
        else:
            yield f"{path}{key}", inner


@dataclass(slots=True)
class Routing:
    """See the module. Lives on one event loop; made by `open.open_routing`.

    `started` are the settings the daemon was started with, `settings` those that count now.
    `closing` closes at the end what a change opened.
    """

    started: Settings
    router: Router
    ledger: Ledger | None = None
    cache: ExactCache | None = None
    closing: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    settings: Settings = field(init=False)
    _listeners: list[OnChange] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = self.started

    def on_change(self, listener: OnChange) -> None:
        """Call `listener` whenever other settings count."""
        self._listeners.append(listener)

    async def prepare(self, wanted: Settings) -> Change:
        """Check `wanted` and open what it needs; reads price lists, may open a cache's file.

        Raises `ConfigError` or `EngineError`: then nothing changed.
        """
        try:
            settings = counts_now(self.started, wanted)
        except ConfigError as error:
            log.info("settings wait", action="settings_wait", reason=str(error))
            settings = self.settings
        prices = await asyncio.to_thread(prices_of, settings)
        currency = self.router.till.currency
        if currency not in (None, prices.currency):
            raise ConfigError(
                f"the price list is in {prices.currency}, this box counts in {currency}: "
                "amounts of two currencies are never added; change the box's own file instead"
            )
        semantic_limits_of(settings.cache.semantic)
        cache = self.cache
        if cache is None and settings.cache.exact.enabled:
            cache = await asyncio.to_thread(open_exact_cache, settings)
        return Change(self, settings, prices, cache, differing(settings, wanted))

    def count(self, router: Router, settings: Settings) -> None:
        """From now on these count."""
        before, self.settings = self.settings, settings
        self.router = router
        for listener in self._listeners:
            listener(router, settings)
        changed = differing(before, settings)
        log.info("settings changed", action="settings_changed", keys=list(changed[:64]))


@dataclass(slots=True)
class Change:
    """Settings that were checked and may count at once; `at_next_start` names what will not."""

    routing: Routing
    settings: Settings
    prices: Prices
    cache: ExactCache | None
    at_next_start: tuple[str, ...] = ()

    def commit(self) -> None:
        """Let them count. On the event loop, without a pause in between."""
        routing, settings, old = self.routing, self.settings, self.routing.router
        if routing.ledger is not None:
            routing.ledger.budget(budget_rules_of(settings))
        pool = old.frontiers
        if isinstance(pool, FrontierPool):
            pool.change(self.prices, [limit.scope for limit in limits_of(settings)])
        old.book.change(settings.certificates)
        if isinstance(old.watch, Watch) and settings.watch != routing.settings.watch:
            old.watch.change(settings.watch)
        self._commit_cache()
        old.till.meter.local = self.prices.local
        till = replace(
            old.till,
            local=self.prices.local,
            currency=self.prices.currency,
            price_version=self.prices.version,
        )
        router = replace(
            old,
            directory=directory_of(settings, () if pool is None else pool.names()),
            till=till,
            settings=settings.router,
            exact=self.cache if settings.cache.exact.enabled else None,
            exact_ttl_s=settings.cache.exact.ttl_s,
        )
        routing.count(router, settings)

    def _commit_cache(self) -> None:
        cache, routing = self.cache, self.routing
        if cache is None:
            return
        if routing.cache is None:
            routing.cache = cache
            routing.closing.push_async_callback(asyncio.to_thread, cache.close)
        cache.limit(exact_limits_of(self.settings))

    async def abort(self) -> None:
        """Give them up: close what was opened for them."""
        if self.cache is not None and self.routing.cache is None:
            await asyncio.to_thread(self.cache.close)


def directory_of(settings: Settings, frontiers: tuple[str, ...]) -> Directory:
    """The names of the settings; `frontiers` in the order of asking."""
    hold = settings.router.drift == "hold"
    return Directory(settings.router, settings.endpoints, frontiers, hold)
