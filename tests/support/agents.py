"""A whole agent over a fake host: real store, real files, in-memory broker, trust and bytes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.agent.box import Box
from edge_runtime.agent.clock import Clock
from edge_runtime.agent.decide import Policy
from edge_runtime.agent.link import Link
from edge_runtime.agent.logs import LogTail
from edge_runtime.agent.memory import MemoryBroker, MemoryFetcher, MemoryTrust
from edge_runtime.agent.protocol import (
    Ack,
    BoxState,
    Channel,
    Do,
    Have,
    ItemKind,
    ItemReport,
    Want,
    topic,
)
from edge_runtime.agent.record import RecordStore
from edge_runtime.agent.releases import Releases, mismatch_of
from edge_runtime.agent.reporter import Reporter
from edge_runtime.agent.run import Agent
from edge_runtime.agent.sender import Sender
from edge_runtime.agent.shelf import BundleShelf, Prepare, Shelf, open_documents
from edge_runtime.agent.spool import Spool
from edge_runtime.agent.telemetry import Collector, take_snapshot
from edge_runtime.agent.trial import release_shelf
from edge_runtime.agent.watch import Watch
from edge_runtime.agent.work import Worker
from edge_runtime.bundle.digests import bundle_digest
from edge_runtime.bundle.envelope import trust
from edge_runtime.bundle.files import RealFiles
from edge_runtime.metrics import Metrics
from tests.support.bundles import write_tiny_bundle
from tests.support.swapping import DECODER, FakeModels, fake_host
from tests.support.wants import HARDWARE, PRINCIPAL, VERSIONS, want, want_item

SOON_S = 30.0
KEY = Ed25519PrivateKey.generate()


@dataclass
class Noted:
    """A document that is noted once it counts."""

    applied: list[tuple[str, str]]
    what: tuple[str, str]

    async def commit(self) -> None:
        """See `shelf.Ready`."""
        self.applied.append(self.what)

    async def abort(self) -> None:
        """See `shelf.Ready`."""


@dataclass
class Rig:
    """What a test holds: the control host's side, and the box's."""

    root: Path
    host: FakeModels
    digests: list[str]
    broker: MemoryBroker
    trust: MemoryTrust
    fetcher: MemoryFetcher
    metrics: Metrics
    applied: list[tuple[str, str]] = field(default_factory=list)
    agent: Agent | None = None
    prepare: Prepare | None = None
    releases: Releases | None = None
    boots: int = 0
    sent_before: int = 0
    policy: Policy = field(default_factory=lambda: Policy(retry_first_s=0.05, retry_cap_s=0.1))

    def source(self, version: int) -> str:
        """A bundle that can be fetched, not staged yet; its digest."""
        path = self.root / f"remote-{version}"
        manifest = write_tiny_bundle(
            path,
            weights=b"remote %d" % version,
            version=f"{version}.0.0",
            kind="generate",
            variants=[DECODER],
            golden=[],
        )
        digest = bundle_digest(manifest)
        self.fetcher.available[digest] = path
        return digest

    def item(self, generation: int, digest: str, **fields: Any) -> Any:
        """A wanted bundle `tiny`."""
        values = {"name": "tiny", "probation": {"length_s": 0}, **fields}
        return want_item(generation, digest, **values)

    def tell(self, document: Want) -> None:
        """Publish a signed want, retained."""
        self.broker.publish(topic(PRINCIPAL, Channel.WANT), document.sealed([KEY]), retain=True)

    def want(self, generation: int, digest: str, **fields: Any) -> None:
        """Want one bundle."""
        self.tell(want(self.item(generation, digest, **fields)))

    def order(self, order_id: str, order: str, **more: Any) -> None:
        """Publish a signed order."""
        document = Do(
            principal=PRINCIPAL, id=order_id, issued_s=10, expires_s=20, order=order, **more
        )
        self.broker.publish(topic(PRINCIPAL, Channel.DO), document.sealed([KEY]))

    def ack(self, document: Ack) -> None:
        """Publish watermarks."""
        self.broker.publish(topic(PRINCIPAL, Channel.ACK), document.to_bytes())

    def haves(self) -> list[Have]:
        """Every report so far."""
        name = topic(PRINCIPAL, Channel.HAVE)
        return [Have.from_bytes(one.payload) for one in self.broker.sent if one.topic == name]

    async def reported(self, generation: int, *states: BoxState, name: str = "tiny") -> ItemReport:
        """Wait for a report of this generation in one of these states."""
        seen = 0
        async with asyncio.timeout(SOON_S):
            while True:
                haves = self.haves()
                for document in haves[seen:]:
                    for told in document.items:
                        key = (told.name, told.generation)
                        if key == (name, generation) and told.state in states:
                            return told
                seen = len(haves)
                self.broker.heard.clear()
                await self.broker.heard.wait()

    @contextlib.asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[Agent]:
        """The agent, from start to orderly end."""
        self.boots += 1
        boot, files = f"b-{self.boots}", RealFiles()
        started_s = time.monotonic()
        store = self.host.store
        documents = open_documents(
            self.root / "settings", files, self.prepare or self._prepare, origin=b"{}"
        )
        shelves: dict[ItemKind, Shelf] = {
            ItemKind.BUNDLE: BundleShelf(store, self.host, files, self.root, 0),
            ItemKind.SETTINGS: documents,
        }
        if self.releases is not None:
            shelves[ItemKind.DAEMON] = release_shelf(self.root, files, self.releases)
        records = RecordStore(self.root, files)
        record = await asyncio.to_thread(records.load, PRINCIPAL)
        worker = Worker(shelves, self.trust, self.fetcher, files, self.root / "incoming")

        def uptime_s() -> float:
            return time.monotonic() - started_s

        watch = Watch(
            lambda: take_snapshot(self.metrics.registry),
            mismatch=mismatch_of(self.releases, shelves.get(ItemKind.DAEMON)),
        )
        box = Box(
            records=records,
            record=record,
            shelves=shelves,
            worker=worker,
            clock=Clock(time.monotonic, time.time),
            policy=self.policy,
            boot=boot,
            uptime_s=uptime_s,
            draw=lambda: 0.5,
            health=watch.facts,
        )

        link = Link(
            PRINCIPAL,
            boot,
            self.broker.transport(PRINCIPAL),
            box.next_connection,
            draw=lambda: 0.01,
            ack_timeout_s=0.5,
            **settings.get("link", {}),
        )
        with Spool.open(self.root / "spool.sqlite", 1 << 20) as spool:
            collector = Collector(self.metrics.registry, self.host.models, uptime_s, lambda: 7)
            tail = LogTail(100)
            sender = Sender(
                link, spool, collector, boot, uptime_s, lambda: 7, tail, **settings.get("send", {})
            )
            reporter = Reporter(box, link, HARDWARE, VERSIONS, spool.state)
            self.agent = Agent(box, link, reporter, sender, watch)
            async with self.agent.running():
                yield self.agent

    async def _prepare(self, name: str, path: Path, before: Path) -> Noted:
        return Noted(self.applied, (name, path.read_text()))  # noqa: ASYNC240 - a few bytes


@contextlib.asynccontextmanager
async def rig(root: Path, **host: Any) -> AsyncIterator[Rig]:
    """A box whose host serves version 1 of `tiny`, and nobody who asks anything of it yet."""
    async with fake_host(root, **host) as (models, digests):
        sources = {
            digest: root / f"source-generate-{number}" for number, digest in enumerate(digests, 1)
        }
        yield Rig(
            root,
            models,
            digests,
            MemoryBroker(),
            MemoryTrust(trust([KEY.public_key()])),
            MemoryFetcher(RealFiles(), sources),
            Metrics(),
        )


async def until(ready: Callable[[], bool]) -> None:
    """Wait for what no event announces."""
    async with asyncio.timeout(SOON_S):
        while not ready():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)
