"""The control host's line to the broker: connected as long as it can be, and always trying.

Rules
- One connection is one `Session`; what ends it is a `TransportError`, and then comes the next,
  after a wait drawn at random from 0 to a bound that doubles up to a minute.
- Subscriptions are made anew at every connection. Nobody asks for retained documents of many
  boxes: brokers cut such a replay short in silence.
- What is published is handed over or raises; it is never kept here. The database knows what is
  still to be said.
- Messages go into one bounded queue. While it is full nothing more is taken, and what the broker
  then drops is sent again by the box, because it was not acknowledged.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from edge_runtime.agent.protocol import PREFIX, SHARDS, UP, Channel, quality, shard_filters
from edge_runtime.errors import TransportError
from fleet.ingest.decode import Message

log = structlog.get_logger(__name__)

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0


class Session(Protocol):
    """One connection."""

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Filters with their quality of service; without retained messages.

        Raises `TransportError`, also when the broker refuses one.
        """

    async def publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, expires_s: int | None
    ) -> None:
        """Returns when the broker has it (for QoS 0: when it was sent). Raises `TransportError`."""

    def messages(self) -> AsyncIterator[tuple[str, bytes]]:
        """What comes in; ends, or raises `TransportError`, with the connection."""


class Connector(Protocol):
    """The way to a broker."""

    def connect(self) -> AbstractAsyncContextManager[Session]:
        """Connect, and disconnect at the end. Raises `TransportError`."""


def filters_of(shards: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """What to subscribe to for these shards."""
    if len(set(shards)) == SHARDS:  # all of them in four filters instead of four each
        names = {Channel.TELEMETRY: "t/+"}
        return tuple((f"{PREFIX}/+/+/{names.get(one, one.value)}", quality(one)) for one in UP)
    return tuple(
        (name, quality(channel))
        for shard in shards
        for name, channel in zip(shard_filters(shard), _ORDER, strict=True)
    )


_ORDER: Final = (Channel.HAVE, Channel.LINK, Channel.TELEMETRY, Channel.LOG)


@dataclass
class Link:
    """The line. `on_connect` is called at every new connection, before messages are taken."""

    connector: Connector
    shards: Sequence[int]
    now: Callable[[], float]
    queue_messages: int = 10_000
    on_connect: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)
    connections: int = 0
    _session: Session | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue(self.queue_messages)

    @property
    def connected(self) -> bool:
        """True between a subscription and the end of its connection."""
        return self._session is not None

    async def run(self) -> None:
        """Keep a connection for ever; ends when cancelled."""
        longest_s = FIRST_WAIT_S
        while True:
            try:
                async with self.connector.connect() as session:
                    await session.subscribe(filters_of(self.shards))
                    self._session, longest_s = session, FIRST_WAIT_S
                    self.connections += 1
                    log.info("connected to the broker", action="link.up", number=self.connections)
                    await self._attend(session)
            except TransportError as error:
                log.warning("broker is away", action="link.down", error=str(error))
            finally:
                self._session = None
            await self.wait(self.rng.uniform(0.0, longest_s))
            longest_s = min(2 * longest_s, LONGEST_WAIT_S)

    async def _attend(self, session: Session) -> None:
        for told in self.on_connect:
            await told()
        async for topic, payload in session.messages():
            await self.inbox.put(Message(topic, payload, self.now()))

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int,
        retain: bool = False,
        expires_s: int | None = None,
    ) -> None:
        """Hand a message to the broker. Raises `TransportError` when there is none."""
        session = self._session
        if session is None:
            raise TransportError("the broker is away; it is being called")
        await session.publish(topic, payload, qos=qos, retain=retain, expires_s=expires_s)
