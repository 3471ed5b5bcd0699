"""What a box must not forget: generations, states, floors, its connection number.

Rules
- One file, replaced as a whole: fsync, rename, fsync of the folder. It is written before what
  it says is acted on or told to anybody.
- Only the agent writes it; nothing in it decides what serves, the store's pointers do.
- One that cannot be read is set aside and begun anew: trust metadata still keeps old bytes out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.agent.decide import ItemRecord
from edge_runtime.agent.protocol import REMEMBERED_ORDERS
from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.files import Files, exists, make_dirs, write_atomically

_log = structlog.get_logger(__name__)
MAX_RECORD_BYTES = 1024 * 1024
NAME = "record.json"


class BoxRecord(BaseModel):
    """Everything of one box. `generation` is the newest want's that was stored.

    `floors` are the highest verified release floors by item key. `issued_s` is the latest time a
    signed document named: it is at least that late. `running` is set while the daemon runs, so
    that a start knows whether the last end was wanted; `crashes` counts those that were not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["edge-runtime/box/1"] = Field("edge-runtime/box/1", alias="schema")
    principal: str
    generation: int = Field(default=0, ge=0)
    issued_s: int = Field(default=0, ge=0)
    connection: int = Field(default=0, ge=0)
    items: dict[str, ItemRecord] = Field(default_factory=dict, max_length=64)
    sources: tuple[str, ...] = ()
    floors: dict[str, int] = Field(default_factory=dict, max_length=1024)
    orders: tuple[str, ...] = Field(default=(), max_length=REMEMBERED_ORDERS)
    running: bool = False
    crashes: int = Field(default=0, ge=0)

    def with_item(self, record: ItemRecord) -> Self:
        """The same with this item's record."""
        return self.model_copy(update={"items": {**self.items, record.item.key: record}})

    def with_order(self, order: str) -> Self:
        """The same, remembering that this order was obeyed."""
        orders = (*self.orders, order)[-REMEMBERED_ORDERS:]
        return self.model_copy(update={"orders": orders})

    def with_floor(self, key: str, floor: int) -> Self:
        """The same with a floor that is at least `floor`."""
        floors = {**self.floors, key: max(floor, self.floors.get(key, 1))}
        return self.model_copy(update={"floors": floors})

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True, exclude_none=True))


class RecordStore:
    """The file; blocks on the disk (a few fsyncs a write)."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._path = directory / NAME

    def load(self, principal: str) -> BoxRecord:
        """The record of this box; a new one where there is none, or one of another box."""
        make_dirs(self._files, self._directory)
        if not exists(self._files, self._path):
            return BoxRecord(principal=principal)
        try:
            data = self._files.read(self._path, MAX_RECORD_BYTES + 1)
            parse_strict(data)
            record = BoxRecord.model_validate_json(data, strict=True)
        except (OSError, ValidationError, ValueError) as error:
            _log.exception("record unreadable; begun anew", action="record_lost", reason=str(error))
            self._set_aside()
            return BoxRecord(principal=principal)
        # A crash between rename and fsync left it readable and not yet durable.
        self._files.fsync_dir(self._directory)
        return record if record.principal == principal else BoxRecord(principal=principal)

    def save(self, record: BoxRecord) -> None:
        """Durable when it returns. Raises `OSError`."""
        write_atomically(self._files, self._path, record.to_bytes())

    def _set_aside(self) -> None:
        self._files.rename(self._path, self._path.with_name("record.damaged"))
        self._files.fsync_dir(self._directory)
