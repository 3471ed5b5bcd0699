"""The one module of the control host that speaks MQTT: aiomqtt on paho, protocol version 5.

Version 3.1.1 is for the broker inside `edge-fleet demo`.

Rules
- `clean_start` is off and the session lives an hour: what boxes say while the control host is
  restarted waits at the broker.
- At most 16 unacknowledged messages are taken, 10 given.
- Retained documents are not sent again at a subscription (retain handling 2).
- paho's callbacks only enqueue; nothing of ours runs in them.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_runtime.agent.protocol import MqttVersion
from edge_runtime.errors import ConfigError, TransportError
from fleet.link import Session

SESSION_EXPIRY_S: Final = 3600
RECEIVE_MAXIMUM: Final = 16
MAX_UNACKNOWLEDGED: Final = 10
CONNECT_TIMEOUT_S: Final = 10.0
_LIBRARY_LOG = logging.getLogger("fleet.mqtt")
_LIBRARY_LOG.addHandler(logging.NullHandler())
_LIBRARY_LOG.propagate = False  # it would print topics and payload sizes at every message


@dataclass(frozen=True)
class MqttConnector:
    """Connects as `user`, which is also the client id: one control host a name."""

    host: str
    port: int
    user: str
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None
    queue_messages: int = 10_000
    keepalive_s: int = 60
    version: MqttVersion = "5"

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Session]:
        """See `Connector`."""
        client = aiomqtt.Client(
            self.host,
            self.port,
            identifier=self.user,
            username=self.user,
            password=self.password,
            **self._session_options(),
            keepalive=self.keepalive_s,
            timeout=CONNECT_TIMEOUT_S,
            max_inflight_messages=MAX_UNACKNOWLEDGED,
            max_queued_outgoing_messages=4 * MAX_UNACKNOWLEDGED,
            max_queued_incoming_messages=self.queue_messages,
            tls_context=self._tls(),
            logger=_LIBRARY_LOG,
        )
        try:
            async with client:
                yield _MqttSession(client, five=self.version == "5")
        except aiomqtt.MqttError as error:
            raise TransportError(f"MQTT: {error}") from error

    def _session_options(self) -> dict[str, Any]:
        if self.version == "3.1.1":
            return {"protocol": aiomqtt.ProtocolVersion.V311, "clean_session": False}
        return {
            "protocol": aiomqtt.ProtocolVersion.V5,
            "clean_start": False,
            "properties": _connect_properties(),
        }

    def _tls(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"broker.ca: cannot be used: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@dataclass(slots=True)
class _MqttSession:
    client: aiomqtt.Client
    five: bool = True

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """See `Session`."""
        for name, qos in filters:
            options = SubscribeOptions(qos=qos, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
            try:
                granted = await (
                    self.client.subscribe(name, options=options)
                    if self.five
                    else self.client.subscribe(name, qos=qos)
                )
            except aiomqtt.MqttError as error:
                raise TransportError(f"MQTT: {error}") from error
            if any(_refused(code) for code in granted):
                raise TransportError(f"the broker does not let us read {name}; see its ACL file")

    async def publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, expires_s: int | None
    ) -> None:
        """See `Session`."""
        properties = None
        if expires_s is not None and self.five:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expires_s
        try:
            await self.client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        except aiomqtt.MqttError as error:
            raise TransportError(f"MQTT: {error}") from error

    async def messages(self) -> AsyncIterator[tuple[str, bytes]]:
        """See `Session`."""
        try:
            async for message in self.client.messages:
                if isinstance(message.payload, bytes | bytearray):
                    yield message.topic.value, bytes(message.payload)
        except aiomqtt.MqttError as error:
            raise TransportError(f"MQTT: {error}") from error


def _refused(code: ReasonCode | int) -> bool:
    return code.is_failure if isinstance(code, ReasonCode) else code >= 0x80


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    return properties
