"""Settings of the control host: what may be set, its default, its bounds and its meaning.

Rules
- Every limit has a name with its unit, a default and a bound; nothing is unlimited.
- No secret stands here: files and folders that hold them are named.
- Variables are `EDGEFLEET_<SECTION>__<KEY>`; the file is TOML. `edge-fleet config` shows both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from edge_runtime.agent.protocol import SHARDS, MqttVersion
from edge_runtime.config_loader import SettingsLoader
from edge_runtime.config_section import HomePath, Section

ENV_PREFIX: Final = "EDGEFLEET_"

Url = Annotated[str, Field(max_length=512, pattern=r"^https?://[^\s\"<>\\^`{|}]+$")]


def is_loopback(host: str) -> bool:
    """True when only this machine can connect."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class StateSettings(Section):
    """What the control host keeps besides its database."""

    dir: HomePath = Field(
        Path("var/fleet"),
        description="Folder for the root secret, the certificate authority and its own files.",
    )


class DatabaseSettings(Section):
    """The database."""

    url: str = Field(
        "sqlite:///var/fleet/fleet.db",
        description="`sqlite:///<path>` or `postgresql://<user>:<password>@<host>/<name>`.",
    )


class ApiSettings(Section):
    """Where the REST API listens, and how much it takes."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8443, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    public_url: Url = Field(
        "http://127.0.0.1:8443", description="What boxes and people call it by."
    )
    tls_certificate: HomePath | None = Field(None, description="PEM file of its certificate.")
    tls_key: HomePath | None = Field(None, description="PEM file of the certificate's key.")
    behind_proxy: bool = Field(
        default=False,
        description="A proxy on this network ends TLS: serve plain HTTP off loopback too.",
    )
    open_metrics: bool = Field(default=False, description="Serve `/metrics` without a token.")
    max_body_bytes: int = Field(
        1024 * 1024, ge=65_536, le=1 << 26, description="Largest request body."
    )
    page_items: int = Field(500, ge=1, le=5000, description="Most items of one page.")
    enrol_per_s: float = Field(
        50.0, gt=0, le=10_000, description="Requests to be let in that are looked at a second."
    )

    @model_validator(mode="after")
    def _tls_off_loopback(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        plain = self.tls_certificate is None and not self.behind_proxy
        if plain and not is_loopback(self.host):
            raise ValueError(
                "tokens and claims would cross the network in the clear; give tls_certificate and "
                "tls_key, or set behind_proxy where a proxy ends TLS"
            )
        return self


class BrokerSettings(Section):
    """The MQTT broker, as the control host reaches it and as boxes are told to."""

    host: str = Field("127.0.0.1", description="Address of the broker for the control host.")
    port: int = Field(1883, ge=1, le=65535, description="Its port.")
    tls: bool = Field(default=False, description="Whether that connection is encrypted.")
    ca: HomePath | None = Field(
        None, description="PEM file of who signed its certificate. None: the system's list."
    )
    mqtt: MqttVersion = Field(
        "5", description="What it speaks; 3.1.1 has no expiry of sessions and messages."
    )
    user: str = Field(
        "control",
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
        description="User name of the control host; never one a box could have.",
    )
    secret_file: HomePath | None = Field(
        None,
        description="File whose first line is the control host's password. None: it is made from "
        "the root secret and written to passwords_file.",
    )
    public_host: str = Field("127.0.0.1", description="Address that boxes are told.")
    public_port: int = Field(1883, ge=1, le=65535, description="Port that boxes are told.")
    public_tls: bool = Field(default=False, description="Whether boxes are told to use TLS.")
    passwords_file: HomePath | None = Field(
        None, description="mosquitto's `password_file`, kept in step. None: somebody else does."
    )
    acl_file: HomePath | None = Field(None, description="mosquitto's `acl_file`.")
    crl_file: HomePath | None = Field(
        None,
        description="mosquitto's `crlfile`: certificates of boxes that hold no more. Goes with "
        "enrol.mode certificate.",
    )
    pid_file: HomePath | None = Field(
        None, description="mosquitto's `pid_file`, for telling it to reload."
    )
    reload_command: list[str] = Field(
        default_factory=list,
        max_length=16,
        description="Instead of a signal: a program that makes the broker reload, no shell.",
    )
    max_queued_messages: int = Field(
        10_000, ge=100, le=1_000_000, description="Messages taken from the broker, not yet stored."
    )

    @model_validator(mode="after")
    def _files_go_together(self) -> Self:
        if (self.passwords_file is None) != (self.acl_file is None):
            raise ValueError("passwords_file and acl_file go together")
        if self.crl_file is not None and self.acl_file is None:
            raise ValueError("crl_file needs passwords_file and acl_file beside it")
        return self


class EnrolSettings(Section):
    """Who is let in, and what they get."""

    mode: Literal["password", "certificate"] = Field(
        "password", description="What a box shows to the broker."
    )
    claim_lives_s: float = Field(
        86_400.0, gt=0, le=90 * 86_400, description="How long a claim may be used by default."
    )
    approve: str = Field(
        "",
        max_length=1024,
        description="Expression over a box's facts; where it holds, nobody is asked. Empty: a "
        "person decides, unless the claim says otherwise.",
    )
    certificate_days: int = Field(365, ge=1, le=3650, description="Life of a box's certificate.")
    max_pending: int = Field(
        10_000, ge=1, le=1_000_000, description="Boxes that may wait for a decision."
    )


class BoxSettings(Section):
    """When a box is missed."""

    silent_after_s: float = Field(
        900.0, gt=0, le=7 * 86_400, description="Without a word for so long it is silent."
    )
    unreachable_after_s: float = Field(
        86_400.0, gt=0, le=365 * 86_400, description="And for so long it is unreachable."
    )


class IngestSettings(Section):
    """How telemetry is taken in and how long it is kept."""

    shards: list[int] = Field(
        default_factory=lambda: list(range(SHARDS)),
        min_length=1,
        max_length=SHARDS,
        description="Shards this process listens to. Several processes need PostgreSQL.",
    )
    commit_messages: int = Field(
        500, ge=1, le=10_000, description="Most messages of one transaction."
    )
    commit_wait_ms: int = Field(
        200, ge=1, le=10_000, description="Longest wait for more messages before one."
    )
    raw_days: float = Field(2.0, gt=0, le=365, description="How long single rows are kept.")
    box_days: float = Field(
        30.0, gt=0, le=3650, description="How long hourly sums of each box are kept."
    )
    fleet_days: float = Field(
        730.0, gt=0, le=36_500, description="How long hourly sums of the fleet are kept."
    )

    @model_validator(mode="after")
    def _known_shards(self) -> Self:
        if not all(0 <= shard < SHARDS for shard in self.shards):
            raise ValueError(f"shards are 0 to {SHARDS - 1}")
        return self


class AlertSettings(Section):
    """Who is told when a rule holds."""

    every_s: float = Field(30.0, gt=0, le=3600, description="How often rules are looked at.")
    webhook_url: Url | None = Field(None, description="Where alerts are posted as JSON.")
    webhook_secret_file: HomePath | None = Field(
        None, description="File whose first line signs posts (HMAC-SHA256, `x-edge-signature`)."
    )
    webhook_tries: int = Field(8, ge=1, le=100, description="Tries before a post is given up.")
    webhook_timeout_s: float = Field(10.0, gt=0, le=300, description="Longest wait for an answer.")
    max_rules: int = Field(200, ge=1, le=10_000, description="Most rules there may be.")


class PublishSettings(Section):
    """Where boxes get bytes and metadata, and who signs what is wanted of them."""

    repository: HomePath = Field(
        Path("var/fleet/repository"), description="Folder of the published repository."
    )
    keys: list[HomePath] = Field(
        default_factory=lambda: [Path("var/fleet/keys/online")],
        max_length=8,
        description="Folders with the online keys: snapshot, timestamp, orders.",
    )
    sources: list[Url] = Field(
        default_factory=list, max_length=8, description="Base URLs of blobs, best first."
    )
    metadata_url: Url | None = Field(None, description="Base URL of trust metadata.")
    max_blob_bytes: int = Field(
        8 << 30, ge=1 << 20, le=1 << 40, description="Largest file a publisher may send."
    )
    min_free_bytes: int = Field(
        1 << 30, ge=0, le=1 << 50, description="Room on the disk that publishers must leave."
    )


class FleetSettings(Section):
    """All settings of the control host."""

    state: StateSettings = StateSettings()
    database: DatabaseSettings = DatabaseSettings()
    api: ApiSettings = ApiSettings()
    broker: BrokerSettings = BrokerSettings()
    enrol: EnrolSettings = EnrolSettings()
    boxes: BoxSettings = BoxSettings()
    ingest: IngestSettings = IngestSettings()
    alerts: AlertSettings = AlertSettings()
    publish: PublishSettings = PublishSettings()


def load_settings(path: Path | None, environ: Mapping[str, str]) -> FleetSettings:
    """Read, merge and check; the file is optional. Raises `ConfigError` naming every wrong key."""
    return SettingsLoader(FleetSettings, ENV_PREFIX, "docs/howto/run-a-fleet.md").load(
        path, environ
    )
