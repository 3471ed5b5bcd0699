"""`have` and `link`: what a box says of itself.

Clocks lie: everything is stamped with the boot, the uptime in it and a sequence number; `clock_s`
is only what the box believes, the receiver estimates the offset.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edge_runtime.agent.protocol.document import Count, Document, EpochS, Part, Reason, Token
from edge_runtime.agent.protocol.states import (
    BoxState,
    DeferReason,
    FailureCode,
    FailureKind,
    ItemKind,
)
from edge_runtime.agent.protocol.topics import MAX_BYTES, Channel, Principal
from edge_runtime.agent.protocol.want import MAX_ITEMS
from edge_runtime.bundle.manifest import Name, Sha256

MAX_WAITING = 16
_Short = Annotated[str, Field(max_length=96, pattern=r"^[\x20-\x7e]*$")]


class Failure(Part):
    """Why a box gave up, and what it left behind. `reason` is for people."""

    kind: FailureKind
    code: FailureCode
    reason: Reason = ""


class ItemReport(Part):
    """Where a box is with one wanted thing, or one active one that nobody asked for.

    `generation` 0: never wanted. `active` is what serves now, `previous` what it could go back
    to. `until_s` is when a deferred box looks again (None: when something changes).
    `at_next_start` names settings that do not count before the daemon starts again.
    """

    kind: ItemKind
    name: Name
    generation: Count = 0
    rollout: Token | None = None
    state: BoxState
    wanted: Sha256 | None = None
    active: Sha256 | None = None
    previous: Sha256 | None = None
    model_digest: Sha256 | None = None
    version: _Short | None = None
    release: Count | None = None
    bytes_done: Count = 0
    bytes_total: Count = 0
    tries: Count = 0
    defer: DeferReason | None = None
    until_s: EpochS | None = None
    failure: Failure | None = None
    at_next_start: tuple[_Short, ...] = Field(default=(), max_length=MAX_WAITING)


class Hardware(Part):
    """Facts that decide what a box can run. Bytes; `cpu_features` as in bundle manifests."""

    arch: _Short
    cpu_model: _Short = ""
    cores: int = Field(ge=1, le=65536)
    cpu_features: tuple[Annotated[str, Field(pattern=r"^[a-z0-9_.]{1,32}$")], ...] = Field(
        default=(), max_length=64
    )
    memory_bytes: Count
    disk_total_bytes: Count = 0
    accelerator: _Short = ""


class Versions(Part):
    """Software of a box. `onnxruntime` is compared with the floor of a bundle's variants."""

    daemon: _Short
    onnxruntime: _Short = ""
    python: _Short = ""
    os: _Short = ""


class SpoolState(Part):
    """The telemetry a box still holds, and what it had to throw away since it was enrolled."""

    rows: Count = 0
    bytes: Count = 0
    evicted_rows: Count = 0


class Have(Document):
    """The whole reported state. `(boot, seq)` orders reports of a box.

    `boot` names one run of the daemon, `seq` rises in it from 1. `generation` is that of the
    newest want the box stored. `labels` are the box's own words about itself (site, line, ...).
    """

    max_bytes: ClassVar[int] = MAX_BYTES[Channel.HAVE]

    schema_: Literal["edge-runtime/have/1"] = Field("edge-runtime/have/1", alias="schema")
    principal: Principal
    boot: Token
    seq: Annotated[int, Field(ge=1)]
    uptime_ms: Count
    clock_s: EpochS
    connection: Count = 0
    generation: Count = 0
    reason: Literal["connected", "changed", "daily", "asked"] = "changed"
    items: tuple[ItemReport, ...] = Field(default=(), max_length=4 * MAX_ITEMS)
    hardware: Hardware
    versions: Versions
    labels: dict[Name, _Short] = Field(default_factory=dict, max_length=16)
    disk_free_bytes: Count = 0
    metered: bool = False
    crashes: Count = 0
    spool: SpoolState = SpoolState()


class Link(Document):
    """Whether a box is connected. Retained; the Will says `up` false.

    `connection` rises with every connect, over restarts too: a Will of an older connection than
    the last one heard of is ignored.
    """

    max_bytes: ClassVar[int] = MAX_BYTES[Channel.LINK]

    schema_: Literal["edge-runtime/link/1"] = Field("edge-runtime/link/1", alias="schema")
    up: bool
    connection: Annotated[int, Field(ge=1)]
    boot: Token
