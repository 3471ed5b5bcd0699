"""The store: the bundles a box holds, and which of them each name is served from.

Layout below its root::

    bundles/<bundle_digest>/   whole, verified, durable; never changed
    staging/                   work that may be half done; emptied at every start
    active/<name>.json         the pointer of one name (see `pointer`)
    lock                       held by the one process that uses the store

Rules
- A bundle enters `bundles/` by one rename, after every byte and name of it is durable.
- A pointer moves by one rename, after its bytes are durable and the bundle was verified and
  prepared. What an operation returned survives any crash; what it did not return happened
  wholly or not at all.
- A refusal changes nothing that is active.
- The bundles a pointer names, active and previous, are never removed.

Whether a bundle is *trusted*, and which releases a box may go back to, is decided elsewhere.

Example::

    with Store.open(Path("/var/lib/edge-runtime")) as store:
        digest = store.stage(Path("/media/usb/minilm-l6"))
        outcome = store.activate("minilm-l6", digest, loader)
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from edge_runtime.bundle.activation import Committed, Loader, Prepared, Refused
from edge_runtime.bundle.digests import bundle_digest
from edge_runtime.bundle.files import Files, RealFiles, exists, make_dirs, remove_tree
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest, Sha256
from edge_runtime.bundle.pack import load_manifest, verify
from edge_runtime.bundle.pointer import Pointer
from edge_runtime.bundle.pointers import Pointers, Recovery, RecoveryAction
from edge_runtime.bundle.staging import copy_bundle
from edge_runtime.errors import BundleError, CapacityError, ConfigError, EdgeError, EngineError

_log = structlog.get_logger(__name__)
_DIGEST: TypeAdapter[str] = TypeAdapter(Sha256)
_RETRY_FULL_S = 60.0


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """`min_free_bytes` stay free on the file system; no bundle may exceed `max_bundle_bytes`."""

    min_free_bytes: int = 256 * 1024 * 1024
    max_bundle_bytes: int = 64 * 1024 * 1024 * 1024


class Store:
    """See the module. Made by `Store.open`; its methods may be called from any thread.

    They block on the disk and on the loader: call them outside the event loop. `recovered`
    says what `open` found, one entry a name.
    """

    def __init__(self, root: Path, files: Files, limits: StoreLimits) -> None:
        self._bundles = root / "bundles"
        self._staging = root / "staging"
        self._root = root
        self._files = files
        self._limits = limits
        self._pointers = Pointers(root / "active", files)
        self._mutex = threading.RLock()
        self.recovered: tuple[Recovery, ...] = ()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, root: Path, *, files: Files | None = None, limits: StoreLimits | None = None
    ) -> Iterator[Store]:
        """Lock the store at `root`, make it if need be, and `recover` it.

        Raises `ConfigError` while another process holds it, or when `root` cannot be used.
        Reads every byte of the active bundles once.
        """
        layer = RealFiles() if files is None else files
        store = cls(root, layer, StoreLimits() if limits is None else limits)
        with contextlib.ExitStack() as stack:
            try:
                make_dirs(layer, root)
                stack.enter_context(layer.lock(root / "lock"))
                store.recovered = store.recover()
            except BlockingIOError as error:
                raise ConfigError(
                    f"the store {root} is in use by another process: stop that one, "
                    "or set another store directory"
                ) from error
            except OSError as error:
                raise ConfigError(f"the store {root} cannot be used: {error}") from error
            yield store

    def recover(self) -> tuple[Recovery, ...]:
        """Undo what a crash left half done; afterwards each active name has one good bundle.

        A name whose active bundle is not whole falls back to its previous one, or is not
        active any more; the answer says so. Called by `open`; harmless at any other time.
        """
        with self._mutex:
            for name in ("active", "bundles", "staging"):
                if not exists(self._files, self._root / name):
                    self._files.mkdir(self._root / name)
            self._files.fsync_dir(self._root)  # always: their maker may have died before this
            self._empty_staging()
            recovered = self._pointers.recover(self._fault)
        for entry in recovered:
            if entry.action is not RecoveryAction.KEPT:
                _log.error(
                    "active bundle is not whole",
                    action=f"bundle_{entry.action}",
                    name=entry.name,
                    reason=entry.reason,
                )
        return recovered

    def directory(self, digest: str) -> Path:
        """Where a bundle lies, or would. Raises `BundleError` when it is no sha256 in hex."""
        try:
            return self._bundles / _DIGEST.validate_python(digest)
        except ValidationError as error:
            raise BundleError(digest[:80], "is not a bundle digest (64 hex digits)") from error

    def digests(self) -> tuple[str, ...]:
        """Digests of all bundles in the store, sorted; they are not verified."""
        return tuple(self._files.listdir(self._bundles))

    def active(self) -> Mapping[str, Pointer]:
        """The pointer of every active name. Raises `BundleError` for a damaged one."""
        found = {name: self._pointers.read(name) for name in self._pointers.names()}
        return {name: pointer for name, pointer in found.items() if pointer is not None}

    def verify(self, digest: str) -> Manifest:
        """Check a bundle in the store byte for byte and return its manifest.

        Raises `BundleError` when it is not there, or not whole.
        """
        directory = self.directory(digest)
        if not exists(self._files, directory):
            raise BundleError(digest, "is not in the store: stage it first")
        manifest = load_manifest(directory, self._files)
        if bundle_digest(manifest) != digest:
            raise BundleError(f"{digest}/{MANIFEST_NAME}", "is the manifest of another bundle")
        verify(directory, manifest, self._files)
        return manifest

    def stage(self, source: Path, *, link: bool = False) -> str:
        """Take a bundle directory into the store and return its digest; durable on return.

        Copies it, or with `link` gives its files second names (same file system; whoever
        writes to the source later then damages the store). A bundle that is there already is
        verified and left alone; a damaged one is replaced. Raises `BundleError` when the
        source is refused and `CapacityError` when the disk is too full; then nothing changed.
        """
        with self._mutex, self._disk_errors():
            manifest = load_manifest(source, self._files)
            digest = bundle_digest(manifest)
            target = self.directory(digest)
            if exists(self._files, target) and self._damage(digest) is None:
                self._files.fsync_dir(self._bundles)  # an earlier call may have failed before it
                return digest
            self._check_space(manifest, link=link)
            draft = self._staging / digest
            self._empty_staging()
            try:
                copy_bundle(self._files, source, draft, manifest, link=link)
                if exists(self._files, target):
                    self._files.rename(target, self._staging / f"{digest}.damaged")
                self._files.rename(draft, target)
                self._files.fsync_dir(self._bundles)
            finally:
                with contextlib.suppress(OSError):  # `recover` does it, if the disk comes back
                    self._clear_staging()
            _log.info("bundle staged", action="bundle_staged", bundle_digest=digest)
            return digest

    def activate(self, name: str, digest: str, loader: Loader) -> Committed | Refused:
        """Serve `name` from a staged bundle; the bundle it was served from is kept.

        Verifies every byte, has `loader` prepare it, moves the pointer, commits. When the
        bundle is active already nothing is loaded. Raises `CapacityError` when the disk is too
        full for the pointer (nothing changed) and `EngineError` when it failed while the
        pointer moved: restart then, `recover` settles which bundle it is.
        """

        def target(current: Pointer | None) -> Pointer:
            if current is None:
                return Pointer(name=name, bundle_digest=self.directory(digest).name)
            return current if current.bundle_digest == digest else current.moved_to(digest)

        return self._switch(name, target, loader)

    def revert(self, name: str, loader: Loader) -> Committed | Refused:
        """Serve `name` from its previous bundle again, by the same steps as `activate`."""

        def target(current: Pointer | None) -> Pointer:
            reverted = None if current is None else current.reverted()
            if reverted is None:
                raise BundleError(name, "has no previous bundle to go back to")
            return reverted

        return self._switch(name, target, loader)

    def garbage_collect(self, keep: Collection[str] = ()) -> tuple[str, ...]:
        """Remove bundles that no pointer names and `keep` does not; return their digests.

        Raises `BundleError` and removes nothing when a pointer cannot be read.
        """
        with self._mutex, self._disk_errors():
            needed = set(keep)
            for pointer in self.active().values():
                needed |= {pointer.bundle_digest, pointer.previous or ""}
            doomed = tuple(digest for digest in self.digests() if digest not in needed)
            if not doomed:
                return ()
            self._empty_staging()
            for digest in doomed:
                self._files.rename(self._bundles / digest, self._staging / digest)
            self._empty_staging()
            return doomed

    def _switch(
        self, name: str, choose: Callable[[Pointer | None], Pointer], loader: Loader
    ) -> Committed | Refused:
        with self._mutex, self._disk_errors():
            try:
                current = self._pointers.read(name)
                target = choose(current)
                if target == current:
                    self._pointers.sync()  # an earlier call may have failed before its own
                    return Committed(target)
                manifest = self._verify_for(target)
                prepared = _prepare(loader, self.directory(target.bundle_digest), manifest)
            except EdgeError as error:
                return Refused(str(error))
            if isinstance(prepared, Refused):
                return prepared
            try:
                self._pointers.write(target)
            except OSError:
                prepared.abort()
                raise
            prepared.commit()
            _log.info("bundle active", action="bundle_activated", **target.model_dump())
            return Committed(target)

    def _verify_for(self, pointer: Pointer) -> Manifest:
        manifest = self.verify(pointer.bundle_digest)
        if manifest.name != pointer.name:
            raise BundleError(
                pointer.bundle_digest, f"is a bundle of {manifest.name!r}, not {pointer.name!r}"
            )
        return manifest

    def _fault(self, pointer: Pointer) -> str | None:
        try:
            self._verify_for(pointer)
        except BundleError as error:
            return str(error)
        return None

    def _damage(self, digest: str) -> str | None:
        try:
            self.verify(digest)
        except BundleError as error:
            return str(error)
        return None

    def _check_space(self, manifest: Manifest, *, link: bool) -> None:
        size = sum(entry.size for entry in manifest.files)
        if size > self._limits.max_bundle_bytes:
            raise BundleError(
                MANIFEST_NAME,
                f"lists {size} bytes, more than the {self._limits.max_bundle_bytes} this box takes",
            )
        free = self._files.free_bytes(self._staging) - self._limits.min_free_bytes
        if not link and size > free:
            raise CapacityError(
                f"the bundle needs {size} bytes and the store may take {max(free, 0)} more: remove "
                "old bundles or free disk space",
                retry_after_s=_RETRY_FULL_S,
                status=503,
            )

    def _empty_staging(self) -> None:
        if self._files.listdir(self._staging):
            # A bundle that was moved here must not come back with some of its files gone.
            self._files.fsync_dir(self._staging)
        self._clear_staging()

    def _clear_staging(self) -> None:
        for name in self._files.listdir(self._staging):
            remove_tree(self._files, self._staging / name)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise CapacityError(
                    f"the store {self._root} is full: remove old bundles or free disk space",
                    retry_after_s=_RETRY_FULL_S,
                    status=503,
                ) from error
            raise EngineError(
                f"the store {self._root} failed: {error}; check the disk, then restart"
            ) from error


def _prepare(loader: Loader, directory: Path, manifest: Manifest) -> Prepared | Refused:
    try:
        return loader(directory, manifest)
    except OSError as error:  # the engine's own trouble, not this disk's
        return Refused(str(error))
