"""One MQTT connection a box: paho clients on one event loop, without a thread or a task each.

Rules
- A client lives for one connection, as on a real box: paho keeps nothing for the next one.
- Callbacks of paho run on the event loop and go straight to the `Crowd`; an exception in one is
  the loop's to report, and ends nothing else.
- `drop` closes the socket without a goodbye, so the broker publishes the Will.
- Version 3.1.1 is for the broker inside `edge-fleet demo`; it has no expiry of sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from paho.mqtt.client import (
    MQTT_ERR_SUCCESS,
    Client,
    MQTTMessage,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_runtime.agent.protocol import (
    RETAINED,
    Channel,
    box_filters,
    parse_topic,
    quality,
    topic,
)
from edge_runtime.errors import BundleError
from fleet.simulator.box import Out

MAX_UNACKNOWLEDGED: Final = 10
MAX_QUEUED: Final = 40
SESSION_EXPIRY_S: Final = 3600
WILL_DELAY_S: Final = 5
CONNECT_TIMEOUT_S: Final = 5.0
SWEEP_S: Final = 5.0
_SWEEP_SLICE: Final = 500
_LIBRARY_LOG = logging.getLogger("fleet.simulator.mqtt")
_LIBRARY_LOG.addHandler(logging.NullHandler())
_LIBRARY_LOG.propagate = False


class Crowd(Protocol):
    """Who the connections belong to; boxes are named by their number."""

    def is_up(self, number: int) -> None:
        """The broker let it in, and its subscriptions are on the way."""

    def is_down(self, number: int) -> None:
        """Its connection ended, or came to nothing."""

    def message(self, number: int, channel: Channel, payload: bytes) -> None:
        """Something for it came in."""


@dataclass(slots=True)
class Lines:
    """All connections. Use from the event loop's thread only; `crowd` is set before `dial`."""

    host: str
    port: int
    version: Literal["5", "3.1.1"] = "5"
    keepalive_s: int = 60
    crowd: Crowd | None = None
    foreign: int = 0
    """Messages for somebody else, which a broker must never deliver."""
    _clients: dict[int, Client] = field(default_factory=dict)

    def dial(self, number: int, principal: str, password: str | None, will: bytes) -> None:
        """Begin to connect; `is_up` or `is_down` follows. Blocks while TCP connects."""
        assert number not in self._clients
        client = self._client(number, principal)
        if password is not None:
            client.username_pw_set(principal, password)
        five = self.version == "5"
        client.will_set(
            topic(principal, Channel.LINK), will, qos=1, retain=True,
            properties=_will_properties() if five else None,
        )  # fmt: skip
        self._clients[number] = client
        options: dict[str, Any] = {}
        if five:
            options = {"clean_start": False, "properties": _connect_properties()}
        try:
            client.connect(self.host, self.port, self.keepalive_s, **options)
        except OSError:
            self._clients.pop(number, None)
            asyncio.get_running_loop().call_soon(self._crowd().is_down, number)

    def publish(self, number: int, principal: str, message: Out) -> bool:
        """Hand a message over; False when it cannot be taken now."""
        client = self._clients.get(number)
        if client is None:
            return False
        sent = client.publish(
            topic(principal, message.channel, message.stream),
            message.payload,
            qos=quality(message.channel),
            retain=message.channel in RETAINED,
        )
        return sent.rc == MQTT_ERR_SUCCESS

    def drop(self, number: int) -> None:
        """End a connection as a dead network does; `is_down` follows."""
        client = self._clients.get(number)
        found = None if client is None else client.socket()
        if isinstance(found, socket.socket):
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all of them in order; their Wills are not published."""
        for client in list(self._clients.values()):
            client.disconnect()

    async def keep_alive(self) -> None:
        """Send pings where they are due, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for start in range(0, len(clients := list(self._clients.values())), _SWEEP_SLICE):
                for client in clients[start : start + _SWEEP_SLICE]:
                    client.loop_misc()
                await asyncio.sleep(0)

    def _crowd(self) -> Crowd:
        assert self.crowd is not None
        return self.crowd

    def _client(self, number: int, principal: str) -> Client:
        five = self.version == "5"
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=principal,
            clean_session=None if five else False,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.enable_logger(_LIBRARY_LOG)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(MAX_UNACKNOWLEDGED)
        client.max_queued_messages_set(MAX_QUEUED)
        loop = asyncio.get_running_loop()
        crowd = self._crowd()

        def connected(_client: Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
            if reason.is_failure:
                self.drop(number)
                return
            client.subscribe(list(box_filters(principal)))
            crowd.is_up(number)

        def disconnected(*_: object) -> None:
            if self._clients.get(number) is client:
                del self._clients[number]
                crowd.is_down(number)

        def message(_client: Client, _data: Any, found: MQTTMessage) -> None:
            try:
                parsed = parse_topic(found.topic)
            except BundleError:
                self.foreign += 1
                return
            if parsed.principal != principal:
                self.foreign += 1
                return
            crowd.message(number, parsed.channel, bytes(found.payload))

        client.on_connect = connected
        client.on_disconnect = disconnected
        client.on_message = message

        def opened(_client: Client, _data: Any, sock: Any) -> None:
            loop.add_reader(sock, client.loop_read)

        def closed(_client: Client, _data: Any, sock: Any) -> None:
            loop.remove_reader(sock)
            loop.remove_writer(sock)

        def wants_to_write(_client: Client, _data: Any, sock: Any) -> None:
            loop.add_writer(sock, client.loop_write)

        def has_written(_client: Client, _data: Any, sock: Any) -> None:
            loop.remove_writer(sock)

        client.on_socket_open = opened
        client.on_socket_close = closed
        client.on_socket_register_write = wants_to_write
        client.on_socket_unregister_write = has_written
        return client


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.ReceiveMaximum = 16
    return properties


def _will_properties() -> Properties:
    properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
    properties.WillDelayInterval = WILL_DELAY_S
    return properties
