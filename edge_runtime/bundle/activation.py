"""What an activation says and who takes part in it.

The store decides which bundle a name points at; a `Loader`, the engine's side, decides whether
this box can answer with it. The order is always: files verified, `Loader` called, pointer
moved, `Prepared.commit` called.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.pointer import Pointer


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing changed; `reason` is for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Committed:
    """`pointer` is on disk and durable."""

    pointer: Pointer


class Prepared(Protocol):
    """A bundle that is loaded, warm and answered its golden inputs, beside the old one."""

    def commit(self) -> None:
        """The pointer moved: serve from this one, let the old one drain. Must not raise."""

    def abort(self) -> None:
        """The pointer did not move: let go of memory and files. Must not raise."""


class Loader(Protocol):
    """The engine's part of an activation."""

    def __call__(self, directory: Path, manifest: Manifest) -> Prepared | Refused:
        """Reserve memory, load, warm up and check the golden answers of a verified bundle.

        May raise any `EdgeError` instead of returning `Refused`.
        """
