"""`do`: short-lived orders, and `log`: the answer to one of them.

An order expires in seconds or minutes and is never the only way to reach a state: what must
arrive is a generation of `want`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from edge_runtime.agent.protocol.document import (
    Count,
    Document,
    EpochS,
    Generation,
    SignedDocument,
    SignedPart,
    Token,
)
from edge_runtime.agent.protocol.states import ItemKind
from edge_runtime.agent.protocol.topics import MAX_BYTES, Channel, Principal
from edge_runtime.bundle.manifest import Name

REMEMBERED_ORDERS = 256
"""Ids a box remembers, so that one delivered twice is obeyed once."""


class Cancel(SignedPart):
    """Stop working towards this generation now; a newer `want` says what holds instead."""

    kind: ItemKind
    name: Name
    generation: Generation


class PullLog(SignedPart):
    """Send the newest log lines of at least `level`, at most `max_bytes` of them."""

    level: Literal["info", "warning", "error"] = "info"
    max_bytes: int = Field(default=64 * 1024, ge=1024, le=1024 * 1024)


class Do(SignedDocument):
    """One order. `order` says which; `cancel` and `log` bring what those two need.

    `report`: send `have` again. `rotate`: make a new key and ask for a new credential.
    """

    max_bytes: ClassVar[int] = MAX_BYTES[Channel.DO]
    payload_type: ClassVar[str] = "application/vnd.edge-runtime.do.v1+json"

    schema_: Literal["edge-runtime/do/1"] = Field("edge-runtime/do/1", alias="schema")
    principal: Principal
    id: Token
    issued_s: EpochS
    expires_s: EpochS
    order: Literal["cancel", "log", "report", "rotate"]
    cancel: Cancel | None = None
    log: PullLog | None = None

    @model_validator(mode="after")
    def _brings_what_it_needs(self) -> Self:
        if (self.order == "cancel") != (self.cancel is not None):
            raise ValueError("a cancel, and only a cancel, says of what")
        if (self.order == "log") != (self.log is not None):
            raise ValueError("a log order, and only that, says how much")
        if not self.issued_s < self.expires_s <= self.issued_s + 3600:
            raise ValueError("an order lives up to an hour")
        return self


class LogChunk(Document):
    """A piece of the log asked for by order `order`; `part` counts from 0."""

    max_bytes: ClassVar[int] = MAX_BYTES[Channel.LOG]

    schema_: Literal["edge-runtime/log/1"] = Field("edge-runtime/log/1", alias="schema")
    order: Token
    part: Count
    last: bool
    lines: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(default=(), max_length=2048)
    cut_lines: Count = 0
