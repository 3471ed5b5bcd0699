"""The pointers on disk, and how they are settled at start."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from edge_runtime.bundle.files import Files, write_atomically
from edge_runtime.bundle.manifest import Name
from edge_runtime.bundle.pointer import MAX_POINTER_BYTES, Pointer
from edge_runtime.errors import BundleError

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_SUFFIX = ".json"


class RecoveryAction(enum.StrEnum):
    """What recovery did about one name."""

    KEPT = "kept"  # its active bundle is whole
    FELL_BACK = "fell_back"  # it was not; the previous one is active now
    LOST = "lost"  # neither was; the name is not active any more


@dataclass(frozen=True, slots=True)
class Recovery:
    """One name after recovery; `reason` says what was wrong, and is empty for `KEPT`."""

    name: str
    action: RecoveryAction
    reason: str = ""


class Pointers:
    """The directory that holds one pointer file a name."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files

    def names(self) -> tuple[str, ...]:
        """Every name with a pointer, good or bad, sorted."""
        entries = self._files.listdir(self._directory)
        return tuple(entry.removesuffix(_SUFFIX) for entry in entries if entry.endswith(_SUFFIX))

    def read(self, name: str) -> Pointer | None:
        """The pointer of one name, or None when it has none. Raises `BundleError`."""
        path = self._path(name)
        try:
            pointer = Pointer.from_bytes(self._files.read(path, MAX_POINTER_BYTES + 1))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BundleError(f"{self._directory.name}/{path.name}", str(error)) from error
        if pointer.name != name:
            raise BundleError(
                f"{self._directory.name}/{path.name}", f"is the pointer of {pointer.name!r}"
            )
        return pointer

    def write(self, pointer: Pointer) -> None:
        """Replace a name's pointer; durable on return."""
        write_atomically(self._files, self._path(pointer.name), pointer.to_bytes())

    def sync(self) -> None:
        """Make durable what a killed or failed writer may have left in between."""
        self._files.fsync_dir(self._directory)

    def recover(self, fault: Callable[[Pointer], str | None]) -> tuple[Recovery, ...]:
        """Leave every name with a good bundle, or without a pointer; say what was done.

        `fault` says what is wrong with the bundle a pointer names, or None.
        """
        for entry in self._files.listdir(self._directory):
            if not entry.endswith(_SUFFIX):  # a pointer that was never renamed into place
                self._files.unlink(self._directory / entry)
        self.sync()  # a daemon killed before its fsync left a pointer that is not durable yet
        return tuple(self._settle(name, fault) for name in self.names())

    def _settle(self, name: str, fault: Callable[[Pointer], str | None]) -> Recovery:
        try:
            pointer = self.read(name)
            reason = "has no pointer" if pointer is None else fault(pointer)
        except BundleError as error:
            pointer, reason = None, str(error)
        if reason is None:
            return Recovery(name, RecoveryAction.KEPT)
        fallback = None if pointer is None else pointer.fallen_back()
        if fallback is not None:
            second = fault(fallback)
            if second is None:
                self.write(fallback)
                return Recovery(name, RecoveryAction.FELL_BACK, reason)
            reason = f"{reason}; and the previous bundle: {second}"
        self._files.unlink(self._directory / (name + _SUFFIX))
        return Recovery(name, RecoveryAction.LOST, reason)

    def _path(self, name: str) -> Path:
        try:
            return self._directory / (_NAME.validate_python(name) + _SUFFIX)
        except ValidationError as error:
            raise BundleError(name[:80], "is not a model name") from error
