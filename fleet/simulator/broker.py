"""The broker inside `edge-fleet demo`: amqtt, on loopback, for some dozens of boxes.

Rules
- It needs nothing installed and no network. It speaks MQTT 3.1.1, keeps everything in memory and
  is no broker for production; mosquitto is (`docs/howto/run-a-fleet.md`).
- It may lose a message that is on its way while somebody subscribes for the first time. So boxes
  connect one after another, and report again every few minutes.
- The same passwords and the same topics hold as at mosquitto: a user writes and reads below its
  own name only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext
from amqtt.errors import BrokerError
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from edge_runtime.agent.protocol import DOWN, PREFIX, UP, parse_topic
from edge_runtime.errors import BundleError, TransportError
from fleet.enrol.broker import Passwords
from fleet.enrol.secrets import mosquitto_verify

GOODBYE_S: Final = 0.2
_TRIES: Final = 5
_OPEN: weakref.WeakValueDictionary[str, EmbeddedBroker] = weakref.WeakValueDictionary()
"""amqtt makes its plugins from names and plain values; this leads them back to their broker."""


@dataclass(eq=False)
class EmbeddedBroker:
    """A running broker; also the `Credentials` of its users."""

    control_user: str
    control_hash: str
    port: int = 0
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    _passwords: dict[str, str] = field(default_factory=dict)

    async def update(self, passwords: Passwords, revocations: str | None = None) -> None:
        """See `Credentials`."""
        del revocations  # boxes of the demo show passwords
        self._passwords = dict(passwords)

    def lets_in(self, user: str, password: str) -> bool:
        """Whether this is one of its users."""
        known = {**self._passwords, self.control_user: self.control_hash}
        return user in known and mosquitto_verify(password, known[user])

    def allows(self, user: str, topic: str, action: Action) -> bool:
        """Whether a user may do that; the rules of `fleet.enrol.broker.acl_file`."""
        if user == self.control_user:
            return topic.startswith(f"{PREFIX}/")
        try:
            parsed = parse_topic(topic)
        except BundleError:
            return False
        channels = UP if action is Action.PUBLISH else DOWN
        return parsed.principal == user and parsed.channel in channels

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, control_user: str, control_hash: str) -> AsyncIterator[EmbeddedBroker]:
        """Run one on a free port of loopback while inside. Raises `TransportError`."""
        logging.getLogger("amqtt").setLevel(logging.CRITICAL)  # it would log every connection
        logging.getLogger("transitions").setLevel(logging.CRITICAL)
        door = cls(control_user, control_hash)
        _OPEN[door.key] = door
        broker = await door._start()
        asyncio.get_running_loop().set_exception_handler(_unless_its_own)
        try:
            yield door
        finally:
            await asyncio.sleep(GOODBYE_S)  # for the last goodbyes; amqtt cuts what is left
            await broker.shutdown()

    async def _start(self) -> Broker:
        reason = ""
        for _ in range(_TRIES):
            self.port = free_port()
            name = __name__
            broker = Broker(
                {
                    "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}},
                    "plugins": {
                        f"{name}.UserPlugin": {"key": self.key},
                        f"{name}.TopicPlugin": {"key": self.key},
                    },
                }
            )
            try:
                await broker.start()
            except (BrokerError, OSError) as error:  # somebody took the port meanwhile
                reason = str(error)
                continue
            return broker
        raise TransportError(f"the demo's broker does not start: {reason}")


class UserPlugin(BaseAuthPlugin):  # type: ignore[misc]  # amqtt has no types
    """Asks the broker's password table."""

    @dataclass
    class Config:
        """Which broker this belongs to."""

        key: str = ""

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._door = _OPEN[self._get_config_option("key", "")]

    async def authenticate(self, *, session: Session) -> bool:
        """A user is its client id, too: nobody takes another's session."""
        user, password = session.username or "", session.password or ""
        return session.client_id == user and self._door.lets_in(user, password)


class TopicPlugin(BaseTopicPlugin):  # type: ignore[misc]  # amqtt has no types
    """Asks the broker's rules for topics."""

    @dataclass
    class Config:
        """Which broker this belongs to."""

        key: str = ""

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._door = _OPEN[self._get_config_option("key", "")]

    async def topic_filtering(
        self,
        *,
        session: Session | None = None,
        topic: str | None = None,
        action: Action | None = None,
    ) -> bool:
        """Whether the session's user may do that."""
        if session is None or topic is None or action is None:
            return False
        return self._door.allows(session.username or "", topic, action)


def _unless_its_own(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For each message whose receiver went away, amqtt leaves a failed task that nobody asks."""
    left = context.get("future")
    coroutine = left.get_coro() if isinstance(left, asyncio.Task) else None
    if not getattr(coroutine, "__qualname__", "").startswith(("ProtocolHandler.", "Broker.")):
        loop.default_exception_handler(context)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
