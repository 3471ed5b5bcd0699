"""The control host as a process: everything it does at once, until it is told to stop.

Rules
- What goes wrong for good ends the process; whoever started it starts it again, and everything
  goes on from the database.
- A broker that is away ends nothing: the API answers, and what is to be said waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from edge_runtime.errors import EdgeError, TransportError
from fleet import wiring
from fleet.api.server import listening
from fleet.api.services import Services
from fleet.boxline import BoxLine
from fleet.db.database import Database
from fleet.ingest.alert_service import Alerts, HttpPoster
from fleet.ingest.service import Ingest
from fleet.link import Connector, Link
from fleet.publish.keys import KeyRing
from fleet.publish.refresh import refresh
from fleet.publish.repository import Repository
from fleet.registry.facts import BOX_NAMES
from fleet.rollout.catalogue import RepositoryCatalogue
from fleet.rollout.engine import RolloutEngine
from fleet.rollout.service import RolloutService
from fleet.rollout.sql import Signing, SqlStore
from fleet.settings import FleetSettings

log = structlog.get_logger(__name__)

REFRESH_EVERY_S = 600.0
BROKER_EVERY_S = 86_400.0


@dataclass
class ControlHost:
    """The parts that run."""

    settings: FleetSettings
    services: Services
    link: Link
    line: BoxLine
    ingest: Ingest
    alerts: Alerts
    engine: RolloutEngine
    repository: Repository
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    tick_s: float = 2.0

    async def run(self) -> None:
        """Do everything, for ever; ends when cancelled or when a part fails for good."""
        self.link.on_connect.append(self._on_connect)
        await self.services.enrolment.sync()
        async with asyncio.TaskGroup() as tasks:
            for part in (
                self.link.run(),
                self.ingest.run(),
                self.ingest.run_ageing(),
                self.alerts.run(),
                self.engine.run(self.tick_s),
                self._say_again(),
                self._keep_fresh(),
                self._keep_broker(),
            ):
                tasks.create_task(part)

    async def _on_connect(self) -> None:
        # Silence of boxes counts from now on: until now it was ours.
        self.engine.listening_since_s = self.services.now()
        self.connected.set()

    async def _say_again(self) -> None:
        """After each connect, beside the reading: a broker may have lost what it retained."""
        while True:
            await self.connected.wait()
            self.connected.clear()
            try:
                await self.line.say_again()
            except TransportError as error:
                log.warning("wants were not said again", action="wants.failed", error=str(error))
            except EdgeError as error:
                log.warning("wants were not read", action="wants.failed", error=str(error))

    async def _keep_fresh(self) -> None:
        """Sign snapshot and timestamp again long before they expire."""
        while True:
            try:
                await asyncio.to_thread(self._refresh)
            except EdgeError as error:
                log.warning("metadata was not signed", action="tuf.failed", error=str(error))
            await asyncio.sleep(REFRESH_EVERY_S)

    async def _keep_broker(self) -> None:
        """Write the broker's files again once a day: the list of ended certificates ends, too."""
        while True:
            await asyncio.sleep(BROKER_EVERY_S)
            try:
                await self.services.enrolment.sync()
            except EdgeError as error:
                log.warning("broker not in step", action="broker.failed", error=str(error))

    def _refresh(self) -> None:
        ring = KeyRing.load(self.settings.publish.keys)
        with self.repository.locked():
            if not refresh(self.repository, ring, datetime.now(UTC)):
                log.warning("no snapshot and timestamp keys", action="tuf.no_keys")


@contextlib.asynccontextmanager
async def control_host(
    settings: FleetSettings,
    *,
    connector: Connector | None = None,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[ControlHost]:
    """Make all parts. `connector` None: MQTT, as the settings say. Raises `ConfigError`."""
    published = wiring.repository(settings)
    keys = wiring.orders_keys(settings, published)
    limits = wiring.limits_of(settings)
    async with Database.opened(settings.database.url) as database:
        if connector is None:
            connector = wiring.connector(settings, wiring.root_secret(settings))
        link = Link(connector, settings.ingest.shards, now, settings.broker.max_queued_messages)
        line = BoxLine(link, database, keys, now)
        ingest = Ingest(database, link, wiring.ingest_rules(settings), now, line.logs.add)
        catalogue = RepositoryCatalogue(published)
        sources = settings.publish.sources or [settings.api.public_url]
        store = SqlStore(database, Signing(keys, sources), catalogue, limits)
        engine = RolloutEngine(store, line, now)
        services = Services(
            settings,
            database,
            wiring.enrolment(
                settings,
                database,
                offer=lambda: wiring.offer_of(settings, published, keys),
                now=now,
            ),
            line,
            RolloutService(store, catalogue, engine, now, BOX_NAMES),
            catalogue,
            ingest.stats,
            now,
        )
        alerts = _alerts(settings, services)
        yield ControlHost(settings, services, link, line, ingest, alerts, engine, published)


def _alerts(settings: FleetSettings, services: Services) -> Alerts:
    rules = settings.alerts
    poster = None
    if rules.webhook_url is not None:
        poster = HttpPoster(rules.webhook_url, rules.webhook_timeout_s)
    secret = None
    if rules.webhook_secret_file is not None:
        secret = wiring.first_line(rules.webhook_secret_file).encode()
    return Alerts(
        services.database,
        services.limits,
        services.now,
        rules.every_s,
        poster,
        secret,
        rules.webhook_tries,
    )


async def serve(
    settings: FleetSettings,
    *,
    connector: Connector | None = None,
    on_listening: Callable[[str], None] = lambda _: None,
    wait_for_stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Run a control host until SIGTERM or SIGINT. `on_listening` gets the API's base URL.

    Raises `ConfigError` before anything runs.
    """
    async with (
        control_host(settings, connector=connector) as host,
        listening(host.services) as url,
    ):
        log.info("listening", action="listening", url=url)
        on_listening(url)
        work = asyncio.create_task(host.run())
        stop = asyncio.create_task(_stopped(wait_for_stop or _stop_signal))
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()  # what failed for good
        finally:
            for task in (work, stop):
                task.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)
    log.info("stopped", action="stopped")


async def _stopped(wait: Callable[[], Awaitable[None]]) -> None:
    await wait()


async def _stop_signal() -> None:
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stopped.set)
    try:
        await stopped.wait()
    finally:
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(one)
