"""The box's connection to its broker: kept up, or tried again for weeks.

Rules
- A `Transport` makes one connection; `Link` owns the trying again. Nothing else knows MQTT.
- Incoming messages only go into a bounded queue; whoever works on them cannot stall the reading.
- Every connection has a number that rises for good. It is stored before it is used, announced
  by `link`, and carried by the Will, so that a late Will is recognised.
- A connection counts as alive by the age of the last acknowledgement, never by its own word.
- At most 10 messages wait for an acknowledgement. What cannot be sent raises `TransportError`
  and is the caller's to keep: the broker is no store.
- Waits between connects are drawn from 0 to a limit that doubles up to `reconnect_max_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from edge_runtime.agent.protocol import (
    MAX_BYTES,
    RETAINED,
    Channel,
    box_filters,
    parse_topic,
    quality,
    topic,
)
from edge_runtime.agent.protocol import (
    Link as LinkDocument,
)
from edge_runtime.errors import BundleError, TransportError

log: Final = structlog.get_logger("edge_runtime.agent")

MAX_UNACKNOWLEDGED: Final = 10
INBOX_MESSAGES: Final = 256
FIRST_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when the connection is lost."""

    topic: str
    payload: bytes


class Session(Protocol):
    """One connection."""

    async def subscribe(self, filters: tuple[tuple[str, int], ...]) -> None:
        """Ask for topics, each with its quality of service. Raises `TransportError`."""

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Send; with `qos` 1 return when the broker acknowledged. Raises `TransportError`."""

    def messages(self) -> AsyncIterator[tuple[str, bytes]]:
        """Topic and payload of what arrives; ends with `TransportError` when the link is lost."""


class Transport(Protocol):
    """Makes connections."""

    def connect(self, will: Will) -> contextlib.AbstractAsyncContextManager[Session]:
        """Connect, as the box's principal, to a session the broker keeps for an hour.

        Raises `TransportError`.
        """


class LinkEvent(enum.StrEnum):
    """What a box must know of its link."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of one of the box's own channels."""

    channel: Channel
    payload: bytes


Inbox = asyncio.Queue[Message | LinkEvent]


@dataclass(slots=True)
class Link:
    """See the module. `next_connection` stores and returns the number of the next connection.

    `wait` sleeps; `draw` gives 0 to 1.
    """

    principal: str
    boot: str
    transport: Transport
    next_connection: Callable[[], Awaitable[int]]
    draw: Callable[[], float]
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    monotonic_s: Callable[[], float] = lambda: asyncio.get_running_loop().time()
    reconnect_max_s: float = 300.0
    ack_timeout_s: float = 20.0
    probe_s: float = 120.0
    inbox: Inbox = field(default_factory=lambda: asyncio.Queue(INBOX_MESSAGES))
    connection: int = 0
    tries: int = 0
    _session: Session | None = None
    _acked_s: float = 0.0
    _dead: asyncio.Event = field(default_factory=asyncio.Event)
    _room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_UNACKNOWLEDGED))

    @property
    def up(self) -> bool:
        """Whether there is a connection that was alive a moment ago."""
        return self._session is not None

    async def publish(self, channel: Channel, payload: bytes, stream: str | None = None) -> None:
        """Send on one of the box's own topics; with quality 1, return when acknowledged.

        Raises `TransportError` when there is no connection, or none that answers; that one is
        then given up.
        """
        assert len(payload) <= MAX_BYTES[channel]
        session = self._session
        if session is None:
            raise TransportError("there is no connection to the broker")
        name = topic(self.principal, channel, stream)
        async with self._room:
            try:
                async with asyncio.timeout(self.ack_timeout_s):
                    await session.publish(
                        name, payload, qos=quality(channel), retain=channel in RETAINED
                    )
            except TimeoutError as error:
                if session is self._session:
                    self._dead.set()
                raise TransportError("the broker acknowledges nothing") from error
        if quality(channel):
            self._acked_s = self.monotonic_s()

    async def run(self) -> None:
        """Connect, read, and connect again, until cancelled."""
        while True:
            started_s = self.monotonic_s()
            try:
                await self._one_connection()
            except TransportError as error:
                log.info("no connection to the broker", action="link_down", reason=str(error))
            except Exception:
                # A bug, here or in a library, must not leave the box deaf for good.
                log.exception("the link failed", action="link_failed")
            if self.monotonic_s() - started_s > self.reconnect_max_s:
                self.tries = 0
            await self.wait(self._next_wait_s())

    async def close(self) -> None:
        """Say goodbye, if somebody listens; the Will is not published then."""
        if self._session is not None:
            with contextlib.suppress(TransportError):
                await self.publish(Channel.LINK, self._announcement(up=False))

    def _next_wait_s(self) -> float:
        limit_s = min(self.reconnect_max_s, FIRST_WAIT_S * 2.0 ** min(self.tries, 32))
        self.tries += 1
        return limit_s * self.draw()

    async def _one_connection(self) -> None:
        self.connection = await self.next_connection()
        will = Will(topic(self.principal, Channel.LINK), self._announcement(up=False))
        async with self.transport.connect(will) as session:
            self._dead.clear()
            self._acked_s = self.monotonic_s()
            self._session = session
            try:
                await self._serve(session)
            finally:
                self._session = None
                await self.inbox.put(LinkEvent.DOWN)

    async def _serve(self, session: Session) -> None:
        # Always again: a broker that lost its sessions says nothing of it.
        await session.subscribe(box_filters(self.principal))
        await self.publish(Channel.LINK, self._announcement(up=True))
        log.info("connected", action="link_up", connection=self.connection)
        await self.inbox.put(LinkEvent.UP)
        works = [
            asyncio.ensure_future(work)
            for work in (self._read(session), self._probe(), self._dead.wait())
        ]
        try:
            done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in works:
                task.cancel()
            await asyncio.gather(*works, return_exceptions=True)
        raise TransportError("the connection ended")

    async def _read(self, session: Session) -> None:
        async for name, payload in session.messages():
            try:
                parsed = parse_topic(name)
                if parsed.principal != self.principal:
                    raise BundleError("message", f"is for {parsed.principal}")
                if len(payload) > MAX_BYTES[parsed.channel]:
                    raise BundleError("message", f"has {len(payload)} bytes")
            except BundleError as error:
                log.warning("message refused", action="message_refused", reason=str(error))
                continue
            self.tries = 0
            await self.inbox.put(Message(parsed.channel, payload))

    async def _probe(self) -> None:
        """Ask for an acknowledgement where none came for long."""
        while True:
            await self.wait(self.probe_s)
            if self.monotonic_s() - self._acked_s >= self.probe_s:
                await self.publish(Channel.LINK, self._announcement(up=True))

    def _announcement(self, *, up: bool) -> bytes:
        return LinkDocument(up=up, connection=self.connection, boot=self.boot).to_bytes()
