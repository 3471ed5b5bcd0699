"""A configuration for mosquitto that keeps what this project relies on.

Every line that is not a path has its reason beside it; `docs/howto/run-a-fleet.md` shows where the
file goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAX_PACKET_BYTES = 128 * 1024


@dataclass(frozen=True)
class Tls:
    """Files of a TLS listener. `client_authority`: boxes show certificates of this authority.

    `port`: a listener of its own for boxes; the plain one beside it is the control host's. None:
    the one listener is encrypted.
    """

    authority: Path
    certificate: Path
    key: Path
    client_authority: bool = False
    revocations: Path | None = None
    port: int | None = None


@dataclass(frozen=True)
class BrokerPlaces:
    """Where the broker listens and what files it reads and writes."""

    host: str
    port: int
    passwords: Path
    acl: Path
    state: Path
    pid: Path
    tls: Tls | None = None


def mosquitto_conf(places: BrokerPlaces) -> str:
    """The text of `mosquitto.conf`, for mosquitto 2.0 and newer."""
    lines = [
        f"listener {places.port} {places.host}",
        "allow_anonymous false",
        f"password_file {places.passwords}",
        f"acl_file {places.acl}",
        f"pid_file {places.pid}",
        "",
        "# A client id is its user name: nobody throws another box off by taking its id.",
        "use_username_as_clientid true",
        "# Retained documents survive a restart; a crash loses half a minute, which the control",
        "# host publishes again.",
        "persistence true",
        f"persistence_location {places.state}/",
        "autosave_interval 30",
        "persistent_client_expiration 14d",
        "",
        "# Boxes get few messages; the control host gets all of them, also after a pause.",
        "max_queued_messages 100000",
        "max_queued_bytes 268435456",
        "max_inflight_messages 64",
        f"message_size_limit {MAX_PACKET_BYTES}",
        "set_tcp_nodelay true",
        "connection_messages false",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
    ]
    return "\n".join([*lines, *_tls_lines(places.tls)]) + "\n"


def _tls_lines(tls: Tls | None) -> list[str]:
    if tls is None:
        return []
    lines = [""]
    if tls.port is not None:
        lines += [f"listener {tls.port}", "use_username_as_clientid true"]
    lines += [
        f"cafile {tls.authority}",
        f"certfile {tls.certificate}",
        f"keyfile {tls.key}",
        "tls_version tlsv1.2",
    ]
    if tls.client_authority:
        lines += ["require_certificate true", "use_identity_as_username true"]
    if tls.revocations is not None:
        lines += ["# Who is in this list is refused; the control host keeps it.",
                  f"crlfile {tls.revocations}"]  # fmt: skip
    return lines
