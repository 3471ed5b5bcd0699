"""In-memory twins of the agent's borders: a broker, a trust gate, a source of bytes.

They keep the rules of the real ones that matter to a box: retained messages, Wills, sessions
that outlive a connection, and every way each may fail.

Example::

    broker = MemoryBroker()
    link = Link(principal, boot, broker.transport(principal), ...)
    broker.publish(topic(principal, Channel.WANT), want.sealed([key]), retain=True)
    broker.cut(principal)  # the connection is lost, the Will is published
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.agent.contract import FetchJob, Progress, Trusted
from edge_runtime.agent.link import Session, Will
from edge_runtime.agent.protocol import WantItem
from edge_runtime.bundle.envelope import TrustedKeys
from edge_runtime.bundle.files import Files, make_dirs
from edge_runtime.errors import EdgeError, TransportError


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that reached the broker."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(slots=True)
class _Client:
    filters: set[str] = field(default_factory=set)
    queue: asyncio.Queue[tuple[str, bytes] | None] = field(default_factory=asyncio.Queue)
    will: Will | None = None
    connected: bool = False


class MemoryBroker:
    """Exact topics only, as boxes use them.

    `refuse` keeps everybody from connecting. While `silent`, what is published arrives and is
    never acknowledged. `sent` holds everything that arrived; `heard` is set at each arrival.
    """

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.sent: list[Sent] = []
        self.heard = asyncio.Event()
        self.refuse = False
        self.silent = False
        self.connects = 0
        self._clients: dict[str, _Client] = {}

    def transport(self, principal: str) -> MemoryTransport:
        """A box's way here."""
        return MemoryTransport(self, principal)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """A message from the control host, or from anybody else."""
        if retain:
            self.retained[topic] = payload
        for client in self._clients.values():
            if topic in client.filters:
                client.queue.put_nowait((topic, payload))

    def cut(self, principal: str) -> None:
        """Lose the connection as a dead network does: the Will is published."""
        client = self._clients[principal]
        if client.connected and client.will is not None:
            self.arrived(Sent(client.will.topic, client.will.payload, retain=True))
        client.connected = False
        client.queue.put_nowait(None)

    def forget(self) -> None:
        """Lose all retained messages and sessions, as a broker that was killed."""
        self.retained.clear()
        for principal, client in list(self._clients.items()):
            if client.connected:
                self.cut(principal)
            client.filters.clear()

    def arrived(self, sent: Sent) -> None:
        """Keep and pass on what was published."""
        self.sent.append(sent)
        self.heard.set()
        self.publish(sent.topic, sent.payload, retain=sent.retain)

    def client(self, principal: str) -> _Client:
        """The session of a box."""
        return self._clients.setdefault(principal, _Client())

    async def wait_for(self, wanted: Callable[[Sent], bool]) -> Sent:
        """The first message so far, or to come, that is `wanted`."""
        while True:
            for sent in self.sent:
                if wanted(sent):
                    return sent
            self.heard.clear()
            await self.heard.wait()


@dataclass(frozen=True, slots=True)
class MemoryTransport:
    """A `Transport` to a `MemoryBroker`."""

    broker: MemoryBroker
    principal: str

    @contextlib.asynccontextmanager
    async def connect(self, will: Will) -> AsyncIterator[Session]:
        """See `Transport`."""
        if self.broker.refuse:
            raise TransportError("the broker refuses")
        self.broker.connects += 1
        client = self.broker.client(self.principal)
        client.will, client.connected = will, True
        client.queue = asyncio.Queue()
        try:
            yield _MemorySession(self.broker, client)
        finally:
            client.connected = False


@dataclass(slots=True)
class _MemorySession:
    broker: MemoryBroker
    client: _Client

    async def subscribe(self, filters: tuple[tuple[str, int], ...]) -> None:
        """See `Session`."""
        for name, _ in filters:
            self.client.filters.add(name)
            if name in self.broker.retained:
                self.client.queue.put_nowait((name, self.broker.retained[name]))

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """See `Session`."""
        if not self.client.connected:
            raise TransportError("the connection is lost")
        self.broker.arrived(Sent(topic, payload, retain))
        if self.broker.silent and qos:
            await asyncio.Event().wait()

    async def messages(self) -> AsyncIterator[tuple[str, bytes]]:
        """See `Session`."""
        while (message := await self.client.queue.get()) is not None:
            yield message
        raise TransportError("the connection is lost")


@dataclass(slots=True)
class MemoryTrust:
    """A `TrustGate` that vouches for every item, or raises `error`; floors by item key."""

    keys: TrustedKeys
    error: EdgeError | None = None
    floors: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def want_keys(self) -> TrustedKeys:
        """See `TrustGate`."""
        return self.keys

    async def verify(self, item: WantItem, *, now_s: int | None) -> Trusted:
        """See `TrustGate`."""
        self.asked.append(item.digest)
        if self.error is not None:
            raise self.error
        return Trusted(item.digest, 1, item.release, self.floors.get(item.key, 1))


@dataclass(slots=True)
class MemoryFetcher:
    """A `BlobFetcher` over directories by digest; `gate` holds every fetch back, if set.

    Copies through the file layer and fsyncs what it wrote, as the real one promises.
    """

    files: Files
    available: dict[str, Path]
    error: EdgeError | None = None
    gate: asyncio.Event | None = None
    jobs: list[FetchJob] = field(default_factory=list)
    cancelled: int = 0

    async def fetch(self, job: FetchJob, progress: Progress) -> Path:
        """See `BlobFetcher`."""
        self.jobs.append(job)
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error
        source = self.available[job.item.digest]
        make_dirs(self.files, job.directory)
        progress(job.item.bytes_full, job.item.bytes_full)
        return source
