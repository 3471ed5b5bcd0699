"""The trust metadata a box has accepted, in one file.

Rules
- The file is replaced by one rename, after its bytes are durable: a crash leaves the metadata of
  before or of after, never a mix.
- It belongs to the root a box was enrolled with. Enrolled anew, a box starts from the new root.
- A file that cannot be read is put aside by starting from the enrolment root again: every
  signature is checked anew, only the memory of newer versions is lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.files import Files, make_dirs, write_atomically
from edge_runtime.bundle.manifest import Sha256

MAX_STATE_BYTES = 64 * 1024 * 1024
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Accepted:
    """Metadata files as they were signed: the newest root, and the newest of each other role."""

    root: bytes
    roles: Mapping[str, bytes] = field(default_factory=dict)


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["edge-runtime/trust/1"] = "edge-runtime/trust/1"
    enrolled_sha256: Sha256
    root: str
    roles: dict[str, str]


class TrustState:
    """Reads and replaces the file `trust.json` of a directory. Blocks on the disk."""

    def __init__(self, directory: Path, files: Files, enrolled_root: bytes) -> None:
        self._path = directory / "trust.json"
        self._files = files
        self._enrolled = enrolled_root
        self._digest = hashlib.sha256(enrolled_root).hexdigest()

    def load(self) -> Accepted:
        """What was saved last, or the enrolment root alone."""
        try:
            data = self._files.read(self._path, MAX_STATE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return Accepted(self._enrolled)
        try:
            stored = _Stored.model_validate_json(data, strict=True)
        except ValidationError as error:
            fault = error.errors(include_input=False)[0]["msg"]
            _log.error("trust state is damaged", action="trust_state_reset", reason=fault)
            return Accepted(self._enrolled)
        if stored.enrolled_sha256 != self._digest:
            _log.info("enrolled anew", action="trust_state_reset", reason="another root")
            return Accepted(self._enrolled)
        roles = {name: text.encode() for name, text in stored.roles.items()}
        return Accepted(stored.root.encode(), roles)

    def save(self, accepted: Accepted) -> None:
        """Keep this instead; durable on return."""
        stored = _Stored(
            enrolled_sha256=self._digest,
            root=accepted.root.decode(),
            roles={name: data.decode() for name, data in sorted(accepted.roles.items())},
        )
        make_dirs(self._files, self._path.parent)
        write_atomically(self._files, self._path, canonical_bytes(stored.model_dump()))
