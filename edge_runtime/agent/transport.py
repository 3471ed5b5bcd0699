"""The one module of the box that speaks MQTT: aiomqtt on paho, protocol version 5.

Version 3.1.1 is for brokers that know no other, as in `edge-fleet demo`: sessions then never
expire, and a Will is published at once.

Rules
- `clean_start` is off and the session lives an hour: a box that was away for minutes loses
  nothing, and a box that stays away leaves nothing behind.
- At most 16 unacknowledged messages are taken, 10 given.
- paho keeps no state between connections: each one is a client of its own, and what was not
  acknowledged is the caller's to send again.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_runtime.agent.link import INBOX_MESSAGES, MAX_UNACKNOWLEDGED, Session, Will
from edge_runtime.agent.protocol import BrokerAccess
from edge_runtime.errors import ConfigError, TransportError

SESSION_EXPIRY_S: Final = 3600
RECEIVE_MAXIMUM: Final = 16
WILL_DELAY_S: Final = 45
MAX_PACKET_BYTES: Final = 256 * 1024
CONNECT_TIMEOUT_S: Final = 10.0
REFUSED_CODE: Final = 0x80
_LIBRARY_LOG = logging.getLogger("edge_runtime.agent.mqtt")
_LIBRARY_LOG.addHandler(logging.NullHandler())
_LIBRARY_LOG.propagate = False  # it would print topics and payload sizes at every message


@dataclass(frozen=True, slots=True)
class MqttTransport:
    """Connects as `principal`. The certificate files are PEM; without `ca` the system's CAs."""

    principal: str
    access: BrokerAccess
    keepalive_s: int = 60
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @contextlib.asynccontextmanager
    async def connect(self, will: Will) -> AsyncIterator[Session]:
        """See `Transport`."""
        client = aiomqtt.Client(
            self.access.host,
            self.access.port,
            identifier=self.principal,
            username=self.principal,
            password=self.access.password,
            **self._session_options(),
            will=aiomqtt.Will(
                will.topic,
                will.payload,
                qos=1,
                retain=True,
                properties=_will_properties() if self._five else None,
            ),
            keepalive=self.keepalive_s,
            timeout=CONNECT_TIMEOUT_S,
            max_inflight_messages=MAX_UNACKNOWLEDGED,
            max_queued_outgoing_messages=4 * MAX_UNACKNOWLEDGED,
            max_queued_incoming_messages=INBOX_MESSAGES,
            tls_context=self._tls(),
            logger=_LIBRARY_LOG,
        )
        try:
            async with client:
                yield _MqttSession(client, self._five)
        except aiomqtt.MqttError as error:
            raise TransportError(f"MQTT: {error}") from error

    @property
    def _five(self) -> bool:
        return self.access.mqtt == "5"

    def _session_options(self) -> dict[str, Any]:
        if not self._five:
            return {"protocol": aiomqtt.ProtocolVersion.V311, "clean_session": False}
        return {
            "protocol": aiomqtt.ProtocolVersion.V5,
            "clean_start": False,
            "properties": _connect_properties(),
        }

    def _tls(self) -> ssl.SSLContext | None:
        if not self.access.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the broker's certificates cannot be used: {error}; enrol this box again"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@dataclass(slots=True)
class _MqttSession:
    client: aiomqtt.Client
    five: bool = True

    async def subscribe(self, filters: tuple[tuple[str, int], ...]) -> None:
        """See `Session`."""
        try:
            granted = await self.client.subscribe(
                [(name, SubscribeOptions(qos=qos)) for name, qos in filters]
                if self.five
                else list(filters)
            )
        except aiomqtt.MqttError as error:
            raise TransportError(f"MQTT: {error}") from error
        refused = [name for (name, _), code in zip(filters, granted, strict=True) if _refused(code)]
        if refused:
            raise TransportError(f"the broker does not let this box read {', '.join(refused)}")

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """See `Session`."""
        try:
            await self.client.publish(topic, payload, qos=qos, retain=retain)
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


def _refused(code: object) -> bool:
    """Whether a subscription's answer is a refusal; 3.1.1 answers with plain numbers."""
    if isinstance(code, ReasonCode):
        return code.is_failure
    return isinstance(code, int) and code >= REFUSED_CODE


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    return properties


def _will_properties() -> Properties:
    properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
    properties.WillDelayInterval = WILL_DELAY_S  # a short break is no news
    return properties
