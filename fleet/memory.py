"""The in-memory twin of the broker, for tests of everything above the network.

It keeps the rules of a real one that matter: who may write where, retained messages, a session
that outlives a connection, and connections that end in the middle.

Example::

    broker = MemoryBroker()
    link = Link(broker.connector(), range(SHARDS), clock)
    broker.say("acme~box-1", topic("acme~box-1", Channel.HAVE), have.to_bytes())
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from edge_runtime.agent.protocol import UP, parse_topic
from edge_runtime.errors import BundleError, TransportError
from fleet.link import Connector, Session


@dataclass(frozen=True, slots=True)
class Sent:
    """What the control host published."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    expires_s: int | None


class MemoryBroker:
    """A broker with one subscriber, the control host, and any number of boxes that speak.

    `refuse` keeps the control host from connecting; `silent` makes it hang up at each publish.
    """

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.sent: list[Sent] = []
        self.heard = asyncio.Event()
        self.refuse = False
        self.silent = False
        self.filters: list[tuple[str, int]] = []
        self.refused: list[str] = []
        self.queue: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()

    def connector(self) -> Connector:
        """The control host's way in."""
        return _Connector(self)

    def say(self, user: str, topic: str, payload: bytes) -> bool:
        """A box publishes; False when it may not write there, as the ACL has it."""
        try:
            parsed = parse_topic(topic)
        except BundleError:
            parsed = None
        if parsed is None or parsed.principal != user or parsed.channel not in UP:
            self.refused.append(topic)
            return False
        self.queue.put_nowait((topic, payload))
        return True

    def cut(self) -> None:
        """The connection is lost; what is queued waits for the next one."""
        self.queue.put_nowait(None)

    async def wait_for(self, count: int) -> list[Sent]:
        """The messages sent, once there are so many."""
        while len(self.sent) < count:
            self.heard.clear()
            await self.heard.wait()
        return self.sent

    def accept(self, sent: Sent) -> None:
        """The control host publishes."""
        if self.silent:
            raise TransportError("the broker hung up")
        self.sent.append(sent)
        if sent.retain and sent.payload:
            self.retained[sent.topic] = sent.payload
        elif sent.retain:
            self.retained.pop(sent.topic, None)
        self.heard.set()


@dataclass(frozen=True)
class _Connector:
    broker: MemoryBroker

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Session]:
        """See `Connector`."""
        if self.broker.refuse:
            raise TransportError("the broker refuses us")
        yield _MemorySession(self.broker)


@dataclass
class _MemorySession:
    broker: MemoryBroker
    open: bool = field(default=True)

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """See `Session`."""
        self.broker.filters = list(filters)

    async def publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, expires_s: int | None
    ) -> None:
        """See `Session`."""
        self.broker.accept(Sent(topic, payload, qos, retain, expires_s))

    async def messages(self) -> AsyncIterator[tuple[str, bytes]]:
        """See `Session`."""
        while (message := await self.broker.queue.get()) is not None:
            yield message
        raise TransportError("the connection was lost")
