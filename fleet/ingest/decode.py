"""From a message to what it says, or to the reason it is thrown away. Pure.

Rules
- The principal is the topic's, and the broker lets a box write under its own name only. A document
  that names another one is thrown away: somebody is lying, or a broker lets him.
- A message is as large as its channel allows, or it is not looked at.
- Nothing here raises: one bad message must not keep a thousand good ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_runtime.agent.protocol import (
    MAX_BYTES,
    UP,
    BatchHeader,
    Channel,
    Have,
    Link,
    LogChunk,
    TelemetryRow,
    Topic,
    decode_batch,
    parse_topic,
)
from edge_runtime.errors import BundleError

MAX_CLOCK_AGE_S: Final = 30 * 86_400.0
"""How far back a box's own idea of time is followed."""


@dataclass(frozen=True, slots=True)
class Message:
    """What the transport hands over."""

    topic: str
    payload: bytes
    received_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """A decoded telemetry message."""

    header: BatchHeader
    rows: tuple[TelemetryRow, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that could be read."""

    principal: str
    channel: Channel
    received_s: float
    said: Have | Link | LogChunk | Batch


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message that could not. `reason` is a label of the metric that counts them."""

    reason: str
    detail: str


def decode(message: Message) -> Heard | Dropped:
    """Read one message. Costs up to some milliseconds for a full telemetry batch."""
    try:
        topic = parse_topic(message.topic)
    except BundleError as error:
        return Dropped("topic", str(error))
    if topic.channel not in UP:
        return Dropped("topic", f"{topic.channel} is not for the control host")
    if len(message.payload) > MAX_BYTES[topic.channel]:
        return Dropped("oversized", f"{topic}: {len(message.payload)} bytes")
    try:
        said = _said(topic, message.payload)
    except BundleError as error:
        return Dropped("unreadable", f"{topic}: {error}"[:300])
    if isinstance(said, Have) and said.principal != topic.principal:
        return Dropped("spoofed", f"{topic} speaks for {said.principal}")
    if isinstance(said, Batch) and said.header.stream != topic.stream:
        return Dropped("spoofed", f"{topic} holds stream {said.header.stream}")
    return Heard(topic.principal, topic.channel, message.received_s, said)


def _said(topic: Topic, payload: bytes) -> Have | Link | LogChunk | Batch:
    if topic.channel is Channel.HAVE:
        return Have.from_bytes(payload)
    if topic.channel is Channel.LINK:
        return Link.from_bytes(payload)
    if topic.channel is Channel.LOG:
        return LogChunk.from_bytes(payload)
    return Batch(*decode_batch(payload))


def time_of(row: TelemetryRow, header: BatchHeader, received_s: float) -> float:
    """When a row ended, on the control host's clock.

    The box's clock may be wrong, so only the distance between its now and the row's end counts.
    Where that is negative (its clock was set back since) or beyond a month, the row is taken to
    have ended when it came.
    """
    age_s = float(header.clock_s - row.clock_s)
    return received_s - age_s if 0.0 <= age_s <= MAX_CLOCK_AGE_S else received_s
