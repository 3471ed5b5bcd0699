"""The parts of an agent, made around a daemon's host from settings and the box's credential."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from edge_runtime import __version__
from edge_runtime.agent.box import Box
from edge_runtime.agent.clock import Clock
from edge_runtime.agent.costs import Costs
from edge_runtime.agent.credential import (
    Credential,
    CredentialStore,
    CredentialTransport,
    rotation_due,
)
from edge_runtime.agent.decide import Policy
from edge_runtime.agent.describe import Describe
from edge_runtime.agent.documents import LiveSettings, SettingsDocuments, settings_shelf
from edge_runtime.agent.enrol import HttpApi, rotate
from edge_runtime.agent.golden import GoldenAnswers
from edge_runtime.agent.hardware import hardware, versions
from edge_runtime.agent.link import Link, Transport
from edge_runtime.agent.logs import LogTail
from edge_runtime.agent.protocol import Grant, ItemKind
from edge_runtime.agent.record import RecordStore
from edge_runtime.agent.releases import Releases, mismatch_of
from edge_runtime.agent.reporter import Reporter
from edge_runtime.agent.run import Agent
from edge_runtime.agent.sender import Sender
from edge_runtime.agent.settings import AgentSettings
from edge_runtime.agent.shelf import BundleShelf, Shelf
from edge_runtime.agent.spool import Spool
from edge_runtime.agent.supply import Supply, open_session
from edge_runtime.agent.telemetry import Collector, take_snapshot
from edge_runtime.agent.trial import Trial, release_shelf
from edge_runtime.agent.trust import Trust
from edge_runtime.agent.watch import Watch
from edge_runtime.agent.work import Worker
from edge_runtime.bundle.files import RealFiles
from edge_runtime.bundle.store import StoreLimits
from edge_runtime.config import Settings
from edge_runtime.core import ModelInfo
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.host import Host
from edge_runtime.ledger.ledger import now_us
from edge_runtime.metrics import Metrics
from edge_runtime.router.parts import LEDGER_FILE, limits_of, prices_of

log: Final = structlog.get_logger("edge_runtime.agent")

ROTATION_CHECK_S: Final = 6 * 3600.0
END_SPARE_S: Final = 120.0


@dataclass(slots=True)
class Parts:
    """What `build` needs at hand.

    `settings` are those the daemon runs with, `own` those of the box's own file, `live` the side
    that serves by them.
    """

    settings: Settings
    own: Settings
    live: LiveSettings
    host: Host
    metrics: Metrics
    credentials: CredentialStore
    credential: Credential
    grant: Grant
    files: RealFiles = field(default_factory=RealFiles)
    boot: str = field(default_factory=lambda: f"b-{secrets.token_hex(8)}")
    started_s: float = field(default_factory=time.monotonic)

    @property
    def directory(self) -> Path:
        return self.settings.agent.directory(self.settings.store.path)

    def uptime_s(self) -> float:
        """Seconds since the agent was opened."""
        return time.monotonic() - self.started_s

    async def build(self, stack: contextlib.AsyncExitStack, transport: Transport | None) -> Agent:
        """The agent, not running yet; what must be closed goes on `stack`."""
        options = self.settings.agent
        session = await open_session(self.credentials, self.credential)
        await stack.enter_async_context(session)
        supply = Supply(session, self.host.loop, self.directory, self.files, self._held)
        trust = await asyncio.to_thread(supply.trust, self.grant, self.credential)
        limits = StoreLimits()
        documents = self._documents(trust)
        releases = self._releases()
        shelves = await self._shelves(documents, releases, limits)
        await documents.settle()
        mismatch = await asyncio.to_thread(mismatch_of, releases, shelves[ItemKind.DAEMON])
        worker = Worker(
            shelves,
            trust,
            supply.fetcher(trust, limits.min_free_bytes),
            self.files,
            self.directory / "incoming",
            rate_bytes_s=options.rate_bytes_s,
            companions=supply.companions(trust, self.settings.certificates.directory),
        )
        clock = Clock(time.monotonic, time.time, trust_system=options.trust_system_clock)
        watch = Watch(
            lambda: take_snapshot(self.metrics.registry),
            engine_failed=lambda: bool(self.host.failure),
            golden=GoldenAnswers(self.host),
            mismatch=mismatch,
        )
        records = RecordStore(self.directory, self.files)
        box = Box(
            records=records,
            record=await asyncio.to_thread(records.load, self.grant.principal),
            shelves=shelves,
            worker=worker,
            clock=clock,
            policy=_policy(options),
            boot=self.boot,
            uptime_s=self.uptime_s,
            draw=random.random,
            health=watch.facts,
            load=self.metrics.busy_ratio,
            describe=Describe(self.host, documents),
            metered=options.metered,
        )
        link = Link(
            self.grant.principal,
            self.boot,
            transport or CredentialTransport(self.credentials, options.keepalive_s),
            box.next_connection,
            draw=random.random,
            reconnect_max_s=options.reconnect_max_s,
            ack_timeout_s=options.ack_timeout_s,
            probe_s=2.0 * options.keepalive_s,
        )
        spool = await asyncio.to_thread(
            stack.enter_context,
            Spool.open(self.directory / "spool.sqlite", options.spool_max_bytes),
        )
        tail = LogTail(options.log_lines)
        tail.attach()
        stack.callback(tail.detach)
        costs = await asyncio.to_thread(self._costs, spool)
        if costs is not None:
            documents.counted = lambda settings: costs.limit(limits_of(settings))
        sender = Sender(
            link,
            spool,
            Collector(self.metrics.registry, self.host.models, self.uptime_s, clock.stamp_s),
            self.boot,
            self.uptime_s,
            clock.stamp_s,
            tail,
            costs,
            interval_s=options.telemetry_interval_s,
            send_s=options.telemetry_send_s,
            log_budget_bytes=options.log_max_bytes_per_day,
        )
        self._cut_rows_at_swaps(sender)
        reporter = Reporter(
            box,
            link,
            await asyncio.to_thread(hardware, self.settings.store.path),
            versions(),
            spool.state,
            labels=dict(options.labels),
            interval_s=options.report_interval_s,
            spread_s=options.connect_spread_s,
        )
        return Agent(box, link, reporter, sender, watch, rotate=self.rotate)

    async def rotate(self) -> None:
        """Make a new key and ask for its credential. Raises `EdgeError`."""
        ca = self.directory / "credential" / "ca.pem"
        api = HttpApi(self.grant.api.rstrip("/"), ca if self.grant.ca_pem is not None else None)
        await rotate(api, self.credentials, int(time.time()))

    async def rotate_in_time(self) -> None:
        """Rotate before the certificate ends, until cancelled."""
        while True:
            await asyncio.sleep(ROTATION_CHECK_S * random.uniform(0.5, 1.0))
            held = await asyncio.to_thread(self.credentials.load)
            if held is None or held.grant is None or not rotation_due(held.grant, time.time()):
                continue
            try:
                await self.rotate()
            except EdgeError as error:
                log.warning("not rotated", action="rotation_failed", reason=str(error))

    def _held(self) -> list[Path]:
        store = self.host.store
        return [store.directory(digest) for digest in store.digests()]

    def trial(self) -> Trial:
        """What watches over a release that does not come up."""
        return Trial(self.directory, self.files, self.settings.agent)

    def _documents(self, trust: Trust) -> SettingsDocuments:
        return SettingsDocuments(
            self.own,
            trust.open_settings,
            self.directory,
            self.files,
            self.live,
            waiting=self._waiting,
        )

    def _releases(self) -> Releases:
        options = self.settings.agent
        return Releases(
            options.update_command,
            self.files,
            __version__,
            end=lambda: self._end("a release of the daemon"),
            timeout_s=options.update_timeout_s,
            end_s=self.settings.server.drain_timeout_s + END_SPARE_S,
        )

    async def _shelves(
        self, documents: SettingsDocuments, releases: Releases, limits: StoreLimits
    ) -> dict[ItemKind, Shelf]:
        root = self.settings.store.path
        bundles = BundleShelf(self.host.store, self.host, self.files, root, limits.min_free_bytes)
        return {
            ItemKind.BUNDLE: bundles,
            ItemKind.SETTINGS: await asyncio.to_thread(
                settings_shelf, self.directory, self.files, documents
            ),
            ItemKind.DAEMON: await asyncio.to_thread(
                release_shelf, self.directory, self.files, releases
            ),
        }

    def _waiting(self) -> None:
        if self.settings.agent.restart_for_settings:
            self._end("settings that count from the next start")

    @staticmethod
    def _end(reason: str) -> None:
        """End in order, so that the service manager starts the daemon with what is new."""
        log.info("ending", action="restart", reason=reason)
        os.kill(os.getpid(), signal.SIGTERM)

    def _costs(self, spool: Spool) -> Costs | None:
        """The ledger's reader; None where this box keeps no ledger."""
        if not self.settings.ledger.enabled:
            return None
        path = self.settings.ledger.path or self.settings.store.path / LEDGER_FILE
        currency, limits = prices_of(self.settings).currency, limits_of(self.settings)
        try:
            return Costs.begin(path, currency, limits, now_us, spool.marks())
        except ConfigError as error:
            log.warning("cost is not told", action="cost_unread", reason=str(error))
            return None

    def _cut_rows_at_swaps(self, sender: Sender) -> None:
        def swapped(old: ModelInfo | None, new: ModelInfo) -> None:
            others = [info for info in self.host.models() if info.name != new.name]
            sender.swapped(others if old is None else [*others, old])

        self.host.on_swap(swapped)


def _policy(options: AgentSettings) -> Policy:
    return Policy(
        max_load=options.max_load,
        retry_first_s=options.retry_first_s,
        retry_cap_s=options.retry_cap_s,
        max_tries=options.max_tries,
        metered_allowed=options.metered_allowed,
    )
