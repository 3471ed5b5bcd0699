"""Topics: `fl/1/<shard>/<principal>/<channel>`, and `.../t/<stream>` for telemetry.

Rules
- A principal is `<tenant>~<box>`: user name, client id and topic level in one. The tenant is no
  level of its own, or `+` in an access rule would reach over tenants.
- The shard follows from the principal. A broker's rules cannot check that, so `parse_topic` does.
- Nobody subscribes to retained documents of many boxes: such a replay is cut short in silence.
"""

from __future__ import annotations

import enum
import re
import zlib
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from edge_runtime.errors import BundleError

PREFIX = "fl/1"
SHARDS = 64
MAX_TOPIC_CHARS = 256

_PART = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_PRINCIPAL = re.compile(rf"{_PART}~{_PART}")
_STREAM = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class Channel(enum.StrEnum):
    """The last level of a topic, telemetry's stream aside."""

    WANT = "want"  # down, QoS 1, retained
    DO = "do"  # down, QoS 1, not retained, expires
    ACK = "ack"  # down, QoS 0
    HAVE = "have"  # up, QoS 1
    LINK = "link"  # up, QoS 1, retained, also the Will
    TELEMETRY = "t"  # up, QoS 1
    LOG = "log"  # up, QoS 0


DOWN = (Channel.WANT, Channel.DO, Channel.ACK)
UP = (Channel.HAVE, Channel.LINK, Channel.TELEMETRY, Channel.LOG)
RETAINED = frozenset({Channel.WANT, Channel.LINK})
MAX_BYTES = {
    Channel.WANT: 8 * 1024,
    Channel.DO: 4 * 1024,
    Channel.ACK: 2 * 1024,
    Channel.HAVE: 16 * 1024,
    Channel.LINK: 512,
    Channel.TELEMETRY: 64 * 1024,
    Channel.LOG: 32 * 1024,
}
"""Largest message of a channel; the parsers refuse more and the writers assert it."""


def quality(channel: Channel) -> int:
    """The MQTT quality of service a channel is sent with."""
    return 0 if channel in (Channel.ACK, Channel.LOG) else 1


def _check_principal(value: str) -> str:
    if not _PRINCIPAL.fullmatch(value):
        raise ValueError(
            "must be <tenant>~<box>, each 1-64 of a-z, 0-9, '.', '_' or '-', with a letter or "
            "digit at both ends"
        )
    return value


def _check_stream(value: str) -> str:
    if not _STREAM.fullmatch(value):
        raise ValueError("must be 1-32 of a-z, 0-9, '_' or '-', starting with a letter or digit")
    return value


Principal = Annotated[str, AfterValidator(_check_principal)]
Stream = Annotated[str, AfterValidator(_check_stream)]


def principal_of(tenant: str, box: str) -> str:
    """The principal of a tenant's box. Raises `BundleError` for names that may not be one."""
    principal = f"{tenant}~{box}"
    try:
        return _check_principal(principal)
    except ValueError as error:
        raise BundleError(principal[:140], str(error)) from error


def split_principal(principal: str) -> tuple[str, str]:
    """Tenant and box of a principal. Raises `BundleError`."""
    try:
        tenant, _, box = _check_principal(principal).partition("~")
    except ValueError as error:
        raise BundleError(principal[:140], str(error)) from error
    return tenant, box


def shard_of(principal: str) -> int:
    """0 to `SHARDS` - 1: crc32 of the principal's UTF-8 bytes, modulo `SHARDS`."""
    return zlib.crc32(principal.encode()) % SHARDS


@dataclass(frozen=True, slots=True)
class Topic:
    """One parsed topic; `stream` is set for telemetry only."""

    principal: str
    channel: Channel
    stream: str | None = None

    def __str__(self) -> str:
        base = f"{PREFIX}/{shard_of(self.principal)}/{self.principal}/{self.channel}"
        return base if self.stream is None else f"{base}/{self.stream}"


def topic(principal: str, channel: Channel, stream: str | None = None) -> str:
    """The topic as MQTT takes it; the parts must be valid already."""
    assert (stream is not None) == (channel is Channel.TELEMETRY)
    return str(Topic(principal, channel, stream))


def shard_filters(shard: int) -> tuple[str, ...]:
    """What a control host subscribes to for one shard: everything its boxes send."""
    base = f"{PREFIX}/{shard}/+"
    return (f"{base}/have", f"{base}/link", f"{base}/t/+", f"{base}/log")


def box_filters(principal: str) -> tuple[tuple[str, int], ...]:
    """What a box subscribes to, with its quality of service: its own topics, no wildcard."""
    return tuple((topic(principal, channel), quality(channel)) for channel in DOWN)


def parse_topic(text: str) -> Topic:
    """The parts of a topic. Raises `BundleError`, also when the shard is not the principal's."""
    name = f"topic {text[:140]!r}"
    parts = text.split("/")
    if len(text) > MAX_TOPIC_CHARS or len(parts) not in (5, 6) or "/".join(parts[:2]) != PREFIX:
        raise BundleError(name, f"is not {PREFIX}/<shard>/<principal>/<channel>")
    try:
        principal = _check_principal(parts[3])
        channel = Channel(parts[4])
        stream = _check_stream(parts[5]) if len(parts) == 6 else None
    except ValueError as error:
        raise BundleError(name, str(error)) from error
    if (stream is not None) != (channel is Channel.TELEMETRY):
        raise BundleError(name, "only telemetry has a stream, and it must have one")
    if parts[2] != str(shard_of(principal)):
        raise BundleError(name, f"shard {parts[2]!r} is not that of {principal}")
    return Topic(principal, channel, stream)
