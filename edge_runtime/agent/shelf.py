"""Where wanted things lie and what serves of them: bundles in the store, documents beside it.

Rules
- A shelf per kind, one behaviour: staged whole and durable, activated by an atomic rename of a
  pointer that remembers the one before, reverted the same way.
- What a pointer says after a crash is what serves; the shelf settles the rest when it opens.
- A document is prepared, then its pointer moves, then it counts: one that is refused changes
  nothing. The first of a name can be taken back too: what was there before it is kept as well.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edge_runtime.agent.contract import Activator
from edge_runtime.bundle.activation import Committed, Refused
from edge_runtime.bundle.files import (
    FileKind,
    Files,
    exists,
    make_dirs,
    remove_tree,
    write_atomically,
)
from edge_runtime.bundle.pointer import Pointer
from edge_runtime.bundle.pointers import Pointers
from edge_runtime.bundle.store import Store
from edge_runtime.errors import BundleError, EdgeError, EngineError

_READ_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Holdings:
    """Pointers by name, digests that are staged, and bytes the shelf may still take."""

    active: Mapping[str, Pointer]
    staged: frozenset[str]
    free_bytes: int


class Shelf(Protocol):
    """What is held of one kind."""

    def check(self, name: str) -> None:
        """Refuse a name this box takes nothing for. Raises `UsageError`."""

    def holdings(self) -> Holdings:
        """What is there. Blocks on the disk."""

    def directory(self, digest: str) -> Path:
        """Where a staged thing lies."""

    def stage(self, path: Path, digest: str) -> None:
        """Take what was fetched; durable on return. Blocks on the disk. Raises `EdgeError`."""

    async def activate(self, name: str, digest: str) -> Committed | Refused:
        """Serve it. Raises `EdgeError`."""

    async def revert(self, name: str) -> Committed | Refused:
        """Serve the one before it. Raises `EdgeError`."""

    def collect(self, keep: frozenset[str]) -> None:
        """Remove what no pointer and not `keep` names. Blocks on the disk."""


@dataclass(slots=True)
class BundleShelf:
    """Bundles: the store keeps them, the host serves them."""

    store: Store
    host: Activator
    files: Files
    root: Path
    min_free_bytes: int

    def check(self, name: str) -> None:
        """See `Shelf`; the host refuses what it may not serve."""

    def holdings(self) -> Holdings:
        """See `Shelf`."""
        free = self.files.free_bytes(self.root) - self.min_free_bytes
        return Holdings(self.store.active(), frozenset(self.store.digests()), max(0, free))

    def directory(self, digest: str) -> Path:
        """See `Shelf`."""
        return self.store.directory(digest)

    def stage(self, path: Path, digest: str) -> None:
        """See `Shelf`; links, so that a bundle is never on the disk twice."""
        staged = self.store.stage(path, link=True)
        if staged != digest:
            raise BundleError(digest, f"what was fetched is bundle {staged}")

    async def activate(self, name: str, digest: str) -> Committed | Refused:
        """See `Shelf`."""
        return await self.host.activate(name, digest)

    async def revert(self, name: str) -> Committed | Refused:
        """See `Shelf`."""
        return await self.host.revert(name)

    def collect(self, keep: frozenset[str]) -> None:
        """See `Shelf`."""
        self.store.garbage_collect(keep)


class Ready(Protocol):
    """A document or release that can count at once."""

    async def commit(self) -> None:
        """Its pointer moved: let it count."""

    async def abort(self) -> None:
        """Its pointer did not move: leave what counts as it was."""


Prepare = Callable[[str, Path, Path], Awaitable[Ready]]
"""Check what is at a path for a name, and get ready; the second path is what counts now.

Raises `EngineError` when nobody knows what counts, any other `EdgeError` to refuse.
"""


@dataclass(slots=True)
class DocumentShelf:
    """Settings documents (files) or daemon releases (directories), by the digest they came as.

    Layout: `kept/<digest>`, `active/<name>.json`, `staging/`. Made by `open_documents`.
    `origin` stands for what a name had before its first document.
    """

    root: Path
    files: Files
    prepare: Prepare
    origin: bytes
    check_name: Callable[[str], None]
    min_free_bytes: int = 0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def _pointers(self) -> Pointers:
        return Pointers(self.root / "active", self.files)

    def check(self, name: str) -> None:
        """See `Shelf`."""
        self.check_name(name)

    def holdings(self) -> Holdings:
        """See `Shelf`."""
        pointers = self._pointers
        found = {name: pointers.read(name) for name in pointers.names()}
        free = self.files.free_bytes(self.root) - self.min_free_bytes
        return Holdings(
            {name: pointer for name, pointer in found.items() if pointer is not None},
            frozenset(self.files.listdir(self.root / "kept")),
            max(0, free),
        )

    def directory(self, digest: str) -> Path:
        """See `Shelf`."""
        return self.root / "kept" / digest

    def stage(self, path: Path, digest: str) -> None:
        """See `Shelf`."""
        target = self.directory(digest)
        if not exists(self.files, target):
            draft = self.root / "staging" / digest
            if exists(self.files, draft):
                remove_tree(self.files, draft)
            _copy(self.files, path, draft)
            self.files.rename(draft, target)
        self.files.fsync_dir(target.parent)

    async def activate(self, name: str, digest: str) -> Committed | Refused:
        """See `Shelf`."""
        async with self._lock:
            current = await asyncio.to_thread(self._pointers.read, name)
            if current is not None and current.bundle_digest == digest:
                return Committed(current)
            if current is None:
                current = await asyncio.to_thread(self._point_to_origin, name)
            return await self._switch(current.moved_to(digest), current)

    async def revert(self, name: str) -> Committed | Refused:
        """See `Shelf`."""
        async with self._lock:
            current = await asyncio.to_thread(self._pointers.read, name)
            target = None if current is None else current.reverted()
            if current is None or target is None:
                return Refused(f"{name}: has nothing to go back to")
            return await self._switch(target, current)

    def _point_to_origin(self, name: str) -> Pointer:
        """Say durably what counts before the first document does. Blocks on the disk."""
        digest = hashlib.sha256(self.origin).hexdigest()
        if exists(self.files, self.directory(digest)):
            self.files.fsync_dir(self.root / "kept")  # its writer may have been killed before
        else:
            write_atomically(self.files, self.directory(digest), self.origin)
        pointer = Pointer(name=name, bundle_digest=digest)
        self._pointers.write(pointer)
        return pointer

    def collect(self, keep: frozenset[str]) -> None:
        """See `Shelf`."""
        needed = set(keep)
        for pointer in self.holdings().active.values():
            needed |= {pointer.bundle_digest, pointer.previous or ""}
        for digest in self.files.listdir(self.root / "kept"):
            if digest not in needed:
                remove_tree(self.files, self.directory(digest))

    async def _switch(self, target: Pointer, current: Pointer) -> Committed | Refused:
        path = self.directory(target.bundle_digest)
        before = self.directory(current.bundle_digest)
        if not await asyncio.to_thread(exists, self.files, path):
            return Refused(f"{target.bundle_digest} is not here: stage it first")
        try:
            ready = await self.prepare(target.name, path, before)
        except EngineError:
            raise
        except EdgeError as error:
            return Refused(str(error))
        try:
            await asyncio.to_thread(self._pointers.write, target)
        except OSError as error:
            await ready.abort()
            raise EngineError(
                f"the pointer of {target.name} could not be moved: {error}"
            ) from error
        await ready.commit()
        return Committed(target)


def open_documents(
    root: Path,
    files: Files,
    prepare: Prepare,
    *,
    origin: bytes,
    check: Callable[[str], None] = lambda name: None,
    min_free_bytes: int = 0,
) -> DocumentShelf:
    """The shelf at `root`, made and settled if need be. Blocks on the disk."""
    for name in ("kept", "active", "staging"):
        make_dirs(files, root / name)
    for name in files.listdir(root / "staging"):
        remove_tree(files, root / "staging" / name)
    shelf = DocumentShelf(root, files, prepare, origin, check, min_free_bytes)

    def fault(pointer: Pointer) -> str | None:
        path = shelf.directory(pointer.bundle_digest)
        if not exists(files, path):
            return "is not here"
        whole = files.stat(path).kind is FileKind.DIRECTORY or (
            hashlib.sha256(files.read(path, _READ_LIMIT)).hexdigest() == pointer.bundle_digest
        )
        return None if whole else "is damaged"

    shelf._pointers.recover(fault)  # noqa: SLF001 - the other half of this class
    return shelf


def _copy(files: Files, source: Path, target: Path) -> None:
    if files.stat(source).kind is FileKind.DIRECTORY:
        files.mkdir(target)
        for name in files.listdir(source):
            _copy(files, source / name, target / name)
        files.fsync_dir(target)
        return
    files.create(target)
    for block in files.read_blocks(source):
        files.append(target, block)
    files.fsync_file(target)
