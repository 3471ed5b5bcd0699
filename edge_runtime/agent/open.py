"""Puts the agent together around a daemon's host, from settings and the box's credential.

A box that was not enrolled, or whose credential is damaged, serves without an agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog

from edge_runtime.agent.box import Box
from edge_runtime.agent.clock import Clock
from edge_runtime.agent.companions import Companions
from edge_runtime.agent.costs import Costs
from edge_runtime.agent.credential import (
    Credential,
    CredentialStore,
    CredentialTransport,
    rotation_due,
)
from edge_runtime.agent.decide import Policy
from edge_runtime.agent.documents import Releases, SettingsDocuments
from edge_runtime.agent.download import BlobSource, BundleFetcher, FetchLimits, HttpBlobs
from edge_runtime.agent.enrol import HttpApi, rotate
from edge_runtime.agent.golden import GoldenAnswers
from edge_runtime.agent.hardware import hardware, versions
from edge_runtime.agent.link import Link, Transport
from edge_runtime.agent.logs import LogTail
from edge_runtime.agent.protocol import Grant, ItemKind
from edge_runtime.agent.record import RecordStore
from edge_runtime.agent.reporter import Reporter
from edge_runtime.agent.run import Agent
from edge_runtime.agent.sender import Sender
from edge_runtime.agent.settings import AgentSettings
from edge_runtime.agent.shelf import BundleShelf, Shelf, open_documents
from edge_runtime.agent.spool import Spool
from edge_runtime.agent.telemetry import Collector, take_snapshot
from edge_runtime.agent.trust import HttpMetadata, MetadataSource, Trust, TrustState
from edge_runtime.agent.watch import Watch
from edge_runtime.agent.work import Worker
from edge_runtime.bundle.files import RealFiles
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.bundle.store import StoreLimits
from edge_runtime.config import Settings
from edge_runtime.core import ModelInfo
from edge_runtime.errors import BundleError, ConfigError, EdgeError
from edge_runtime.host import Host, open_host
from edge_runtime.ledger.ledger import now_us
from edge_runtime.metrics import Metrics
from edge_runtime.router.parts import LEDGER_FILE, limits_of, prices_of

log: Final = structlog.get_logger("edge_runtime.agent")

METADATA_TIMEOUT_S: Final = 60.0
ROTATION_CHECK_S: Final = 6 * 3600.0


@contextlib.asynccontextmanager
async def open_host_in_fleet(settings: Settings, metrics: Metrics) -> AsyncIterator[Host]:
    """`host.open_host` with the agent beside it, where this box is in a fleet."""
    async with open_host(settings, metrics) as host, open_agent(settings, host, metrics):
        yield host


@contextlib.asynccontextmanager
async def open_agent(
    settings: Settings, host: Host, metrics: Metrics, *, transport: Transport | None = None
) -> AsyncIterator[Agent | None]:
    """Run the agent while inside; yields None where there is nothing to run.

    `transport` replaces MQTT in tests.
    """
    directory = settings.agent.directory(settings.store.path)
    credentials = CredentialStore(directory / "credential", RealFiles())
    try:
        credential = await asyncio.to_thread(credentials.load) if settings.agent.enabled else None
        if credential is None or credential.grant is None:
            yield None
            return
    except ConfigError as error:
        log.error("no fleet", action="agent_off", reason=str(error))  # noqa: TRY400 - said in full
        yield None
        return
    async with contextlib.AsyncExitStack() as stack:
        parts = _Parts(settings, host, metrics, credentials, credential, credential.grant)
        yield await _started(parts, stack, transport)


async def _started(
    parts: _Parts, stack: contextlib.AsyncExitStack, transport: Transport | None
) -> Agent | None:
    """The agent, running until `stack` is left; None when it cannot run on this box."""
    try:
        async with contextlib.AsyncExitStack() as building:
            agent = await parts.build(building, transport)
            await building.enter_async_context(agent.running())
            rotating = asyncio.ensure_future(parts.rotate_in_time())
            building.callback(rotating.cancel)
            stack.push_async_exit(building.pop_all())
    except (EdgeError, OSError, sqlite3.Error) as error:
        # A full disk or a broken certificate takes a box out of the fleet, not out of service.
        log.exception("the agent does not run", action="agent_off", reason=str(error))
        return None
    log.info("in a fleet", action="agent_on", principal=parts.grant.principal)
    return agent


@dataclass(slots=True)
class _Parts:
    """What `build` needs at hand."""

    settings: Settings
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
        session = await stack.enter_async_context(await self._session())
        trust = await asyncio.to_thread(self._trust, session)
        limits = StoreLimits()

        def open_source(url: str) -> BlobSource:
            return HttpBlobs(session, url)

        def held() -> list[Path]:
            store = self.host.store
            return [store.directory(digest) for digest in store.digests()]

        fetcher = BundleFetcher(
            open_source,
            trust.delta,
            held=held,
            files=self.files,
            limits=FetchLimits(min_free_bytes=limits.min_free_bytes),
        )
        shelves = await self._shelves(trust, limits)
        worker = Worker(
            shelves,
            trust,
            fetcher,
            self.files,
            self.directory / "incoming",
            rate_bytes_s=options.rate_bytes_s,
            companions=self._companions(trust, open_source),
        )
        clock = Clock(time.monotonic, time.time, trust_system=options.trust_system_clock)
        watch = Watch(
            lambda: take_snapshot(self.metrics.registry),
            engine_failed=lambda: bool(self.host.failure),
            golden=GoldenAnswers(self.host),
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
            describe=_Describe(self.host),
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
        sender = Sender(
            link,
            spool,
            Collector(self.metrics.registry, self.host.models, self.uptime_s, clock.stamp_s),
            self.boot,
            self.uptime_s,
            clock.stamp_s,
            tail,
            await asyncio.to_thread(self._costs, spool),
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

    async def _session(self) -> aiohttp.ClientSession:
        """An HTTP client that shows the box's certificate where it has one."""
        ca, certificate, key = await asyncio.to_thread(self.credentials.tls_files, self.credential)
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=16))

    def _trust(self, session: aiohttp.ClientSession) -> Trust:
        if self.grant.tuf_root is None:
            raise ConfigError("the enrolment brought no trust root; enrol this box again")
        loop = self.host.loop
        sources: list[MetadataSource] = []
        if self.grant.metadata is not None:
            source = HttpMetadata(
                session, self.grant.metadata, timeout_s=METADATA_TIMEOUT_S, loop=loop
            )
            sources.append(source)
        state = TrustState(self.directory / "trust", self.files, self.grant.tuf_root.encode())
        return Trust(state, sources, self.credential.want_keys())

    async def _shelves(self, trust: Trust, limits: StoreLimits) -> dict[ItemKind, Shelf]:
        settings = SettingsDocuments(
            self.settings, trust.open_settings, self.directory, self.files, self._restart
        )
        releases = Releases(self.settings.agent.update_command)
        root = self.settings.store.path
        bundles = BundleShelf(self.host.store, self.host, self.files, root, limits.min_free_bytes)
        return {
            ItemKind.BUNDLE: bundles,
            ItemKind.SETTINGS: await asyncio.to_thread(
                open_documents, self.directory / "settings", self.files, settings.apply
            ),
            ItemKind.DAEMON: await asyncio.to_thread(
                open_documents, self.directory / "releases", self.files, releases.apply
            ),
        }

    def _restart(self) -> None:
        """End in order, so that the service manager starts the daemon with what is new."""
        if self.settings.agent.restart_for_settings:
            log.info("restarting", action="restart", reason="settings of the fleet")
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

    def _companions(self, trust: Trust, open_source: Any) -> Any:
        directory = self.settings.certificates.directory
        if directory is None:
            return None
        return Companions(directory, trust.certificates, open_source, self.files).fetch

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


@dataclass(slots=True)
class _Describe:
    """More of what serves, for reports; remembers releases by digest."""

    host: Host
    _releases: dict[str, int] = field(default_factory=dict)

    def __call__(self, kind: ItemKind, name: str, digest: str) -> dict[str, Any]:
        if kind is not ItemKind.BUNDLE:
            return {}
        try:
            if digest not in self._releases:
                manifest = load_manifest(self.host.store.directory(digest))
                self._releases[digest] = manifest.release
            info = self.host.info(name)
        except (EdgeError, BundleError):
            return {}
        told = {"release": self._releases[digest]}
        if info.bundle_digest != digest:
            return told
        return {**told, "version": info.version[:96], "model_digest": info.model_digest}
