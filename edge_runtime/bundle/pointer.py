"""The pointer: which bundle a name is served from, and how it may move. Pure.

Rules
- One pointer a name. It moves by `sequence` + 1, whatever the reason.
- It keeps the bundle it came from as `previous`; reverting swaps the two, so that a revert can
  itself be reverted.
- Falling back at start, when the active bundle turned out bad, forgets the bad one.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.manifest import Name, Sha256

POINTER_SCHEMA: Literal["edge-runtime/active/1"] = "edge-runtime/active/1"
MAX_POINTER_BYTES = 4096


class Pointer(BaseModel):
    """The active bundle of one name and the one before it. `sequence` starts at 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name
    bundle_digest: Sha256
    previous: Sha256 | None = None
    sequence: int = Field(default=1, ge=1)

    def moved_to(self, bundle_digest: str) -> Self:
        """The pointer after another bundle was activated."""
        return self._next(bundle_digest, self.bundle_digest)

    def reverted(self) -> Self | None:
        """The pointer after going back, or None when there is nothing to go back to."""
        return None if self.previous is None else self._next(self.previous, self.bundle_digest)

    def fallen_back(self) -> Self | None:
        """The pointer after the active bundle was found bad, or None when there is no other."""
        return None if self.previous is None else self._next(self.previous, None)

    def _next(self, bundle_digest: str, previous: str | None) -> Self:
        return self.model_copy(
            update={
                "bundle_digest": bundle_digest,
                "previous": previous,
                "sequence": self.sequence + 1,
            }
        )

    def to_bytes(self) -> bytes:
        """Canonical JSON with its schema."""
        return canonical_bytes({"schema": POINTER_SCHEMA, **self.model_dump()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The pointer of these bytes. Raises `ValueError` with the reason."""
        if len(data) > MAX_POINTER_BYTES:
            raise ValueError(f"is larger than {MAX_POINTER_BYTES} bytes")
        document = parse_strict(data)
        if not isinstance(document, dict) or document.pop("schema", None) != POINTER_SCHEMA:
            raise ValueError(f"has another schema than {POINTER_SCHEMA!r}")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise ValueError(f"{where}: {fault['msg']}") from error
