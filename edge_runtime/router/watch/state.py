"""What the watch remembers over restarts: one JSON document, replaced as a whole.

Rules
- It is written through the file layer with fsync before and after the rename: after a crash there
  is the old document or the new one.
- It holds counts, digests, task and tenant names; never a text.
- A document that cannot be read stops the start. Going on without it could forget an alarm, and a
  forgotten alarm would let a suspended certificate keep answers again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.bundle.files import Files, RealFiles, make_dirs, write_atomically
from edge_runtime.errors import ConfigError
from edge_runtime.router.watch.contract import Terms, TrialState
from edge_runtime.router.watch.drift import CertificateState
from edge_runtime.router.watch.slices import Counts

STATE_FILE = Path("watch") / "state.json"  # below the store
MAX_STATE_BYTES = 64 << 20


class Watched(BaseModel):
    """A certificate and its watches. In the document the one used last comes last."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    terms: Terms
    state: CertificateState


class WatchState(BaseModel):
    """The document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["edge-runtime/watch/1"] = Field("edge-runtime/watch/1", alias="schema")
    certificates: list[Watched] = Field(default_factory=list)
    slices: dict[str, dict[str, Counts]] = Field(default_factory=dict)
    trials: list[TrialState] = Field(default_factory=list)

    def to_bytes(self) -> bytes:
        """The document's bytes."""
        return self.model_dump_json(by_alias=True).encode()


class WatchStore(Protocol):
    """Where the document lies. Both calls may wait for the disk."""

    def load(self) -> bytes | None:
        """The document, or None when there is none yet. Raises `ConfigError`."""
        ...

    def save(self, document: bytes) -> None:
        """Replace it; durable on return. Raises `OSError`."""
        ...


@dataclass(slots=True)
class FileWatchStore:
    """A file."""

    path: Path
    files: Files = field(default_factory=RealFiles)

    def load(self) -> bytes | None:
        """See `WatchStore.load`."""
        try:
            return self.files.read(self.path, MAX_STATE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}; make it readable") from error

    def save(self, document: bytes) -> None:
        """See `WatchStore.save`."""
        make_dirs(self.files, self.path.parent)
        write_atomically(self.files, self.path, document)


@dataclass(slots=True)
class MemoryWatchStore:
    """The twin for tests: survives as long as the object; `saves` counts."""

    document: bytes | None = None
    saves: int = 0

    def load(self) -> bytes | None:
        """See `WatchStore.load`."""
        return self.document

    def save(self, document: bytes) -> None:
        """See `WatchStore.save`."""
        self.document = document
        self.saves += 1


def read_state(document: bytes | None) -> WatchState:
    """The state of these bytes; a new one for None. Raises `ConfigError`."""
    if document is None:
        return WatchState()
    if len(document) > MAX_STATE_BYTES:
        raise ConfigError(f"{STATE_FILE} is larger than {MAX_STATE_BYTES} bytes; move it away")
    try:
        return WatchState.model_validate_json(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise ConfigError(
            f"{STATE_FILE} in the store cannot be read ({where}: {fault['msg']}); move it away: "
            "alarms that stand are forgotten then, so look at the drift before"
        ) from error
