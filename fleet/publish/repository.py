"""The fleet's TUF repository on disk: verified reading, signed and atomic writing.

Layout below its root::

    metadata/<n>.<role>.json   root, targets, snapshot and delegated roles, by version
    metadata/timestamp.json    the one file that changes in place
    blobs/                     see `fleet.blobs.store`
    lock                       held by the one process that writes

Rules
- A versioned file is never changed. What is newest of a role is its highest version on disk, and
  it was checked against its delegator before anything is signed on top of it.
- Boxes see nothing until `timestamp.json` is replaced, which is always the last write; so a crash
  leaves the old state or the new one. Only a new root counts at once.
- Nothing is written that does not carry enough signatures.
- Time is handed in.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from edge_runtime.bundle.files import Files, RealFiles, exists, make_dirs, write_atomically
from edge_runtime.errors import BundleError, CapacityError, ConfigError
from fleet.blobs.store import BlobStore
from fleet.publish.keys import KeyRing

TOP_ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
MAX_METADATA_BYTES = 5_000_000
_VERSIONED = re.compile(r"([1-9][0-9]{0,8})\.([a-z0-9][a-z0-9._-]*)\.json")
_LOCK_RETRY_S = 5.0

_T = TypeVar("_T", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a signature of each role holds.

    Online roles are signed again by the control host long before; offline ones by people. A box
    that hears nothing for longer installs nothing new, and goes on serving.
    """

    root: timedelta = timedelta(days=365)
    targets: timedelta = timedelta(days=365)
    delegated: timedelta = timedelta(days=365)
    snapshot: timedelta = timedelta(days=28)
    timestamp: timedelta = timedelta(days=7)

    def of(self, role: str) -> timedelta:
        """The lifetime of a role by name."""
        found: timedelta = getattr(self, role if role in TOP_ROLES else "delegated")
        return found


class Repository:
    """See the module. All methods block on the disk."""

    def __init__(
        self, root: Path, *, files: Files | None = None, lifetimes: Lifetimes | None = None
    ) -> None:
        self.files: Files = RealFiles() if files is None else files
        self.lifetimes = Lifetimes() if lifetimes is None else lifetimes
        self.root_path = root
        self.metadata_path = root / "metadata"
        self.blobs = BlobStore(root / "blobs", self.files)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository for writing. Raises `CapacityError` while another process does."""
        make_dirs(self.files, self.metadata_path)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.files.lock(self.root_path / "lock"))
            except BlockingIOError as error:
                raise CapacityError(
                    f"{self.root_path}: another process publishes; try again",
                    retry_after_s=_LOCK_RETRY_S,
                    status=503,
                ) from error
            self.blobs.prepare()
            yield

    # Reading

    def exists(self) -> bool:
        """Whether there is a root to trust."""
        return self.newest(Root.type) > 0

    def newest(self, role: str) -> int:
        """The highest version of a versioned role on disk; 0 when there is none."""
        return max((version for version, name in self._listed() if name == role), default=0)

    def roles_on_disk(self) -> frozenset[str]:
        """Names of the roles with at least one versioned file."""
        return frozenset(name for _, name in self._listed())

    def read(self, role: str, kind: type[_T]) -> Metadata[_T] | None:
        """The newest metadata of a role, of which no signature was checked; None without one.

        Raises `BundleError` when it cannot be read.
        """
        version = None if kind is Timestamp else self.newest(role)
        if version == 0:
            return None
        name = f"{role}.json" if version is None else f"{version}.{role}.json"
        try:
            data = self.files.read(self.metadata_path / name, MAX_METADATA_BYTES + 1)
        except FileNotFoundError:
            return None
        try:
            metadata: Metadata[_T] = Metadata.from_bytes(data)
        except (DeserializationError, ValueError) as error:
            raise BundleError(name, f"is no TUF metadata: {error}") from error
        if metadata.signed.type != kind.type or version not in (None, metadata.signed.version):
            raise BundleError(name, "is the metadata of another role or version")
        return metadata

    def root(self) -> Metadata[Root]:
        """The newest root. Raises `ConfigError` when there is none."""
        metadata = self.read(Root.type, Root)
        if metadata is None:
            raise ConfigError(f"{self.root_path}: is no repository; run `edge-fleet keys init`")
        _check(metadata, metadata, Root.type)
        return metadata

    def targets(self) -> Metadata[Targets]:
        """The newest top-level targets, signed as the root says."""
        metadata = self.read(Targets.type, Targets)
        if metadata is None:
            raise BundleError("targets.json", "is missing: restore the repository")
        _check(metadata, self.root(), Targets.type)
        return metadata

    def delegated(self, role: str) -> Metadata[Targets] | None:
        """The newest metadata of a delegated role; None when it never signed anything.

        Raises `ConfigError` when nobody delegated that role.
        """
        targets = self.targets()
        delegations = targets.signed.delegations
        if delegations is None or role not in (delegations.roles or {}):
            raise ConfigError(
                f"no key may publish as {role}; run `edge-fleet keys delegate` with the targets key"
            )
        metadata = self.read(role, Targets)
        if metadata is not None:
            _check(metadata, targets, role)
        return metadata

    # Writing: the caller holds the lock

    def sign(
        self,
        metadata: Metadata[_T],
        role: str,
        delegators: tuple[Metadata[Root] | Metadata[Targets], ...],
        ring: KeyRing,
        now: datetime,
    ) -> None:
        """Give `metadata` its expiry and replace its signatures.

        Every key that one of `delegators` lists for `role` and that is at hand signs. Raises
        `ConfigError` naming the keys that are missing when one of them is not satisfied.
        """
        metadata.signed.expires = (now + self.lifetimes.of(role)).replace(microsecond=0)
        metadata.signatures.clear()
        for delegator in delegators:
            for signer in ring.signers(delegator.signed.get_delegated_role(role).keyids):
                metadata.sign(signer, append=True)
        for delegator in delegators:
            result = delegator.signed.get_verification_result(
                role, metadata.signed_bytes, metadata.signatures
            )
            if not result.verified:
                ids = ", ".join(sorted(item[:12] for item in result.unsigned))
                raise ConfigError(
                    f"{role} needs {result.missing} more of the keys {ids}: give --keys the folder "
                    "that holds them"
                )

    def write(self, metadata: Metadata[_T], role: str) -> None:
        """Put signed metadata where boxes find it; durable on return."""
        name = f"{role}.json"
        if role != Timestamp.type:
            name = f"{metadata.signed.version}.{name}"
            if exists(self.files, self.metadata_path / name):
                raise BundleError(name, "is there already, and versions never change")
        data = metadata.to_bytes()
        if len(data) > MAX_METADATA_BYTES:
            raise BundleError(name, f"would be larger than the {MAX_METADATA_BYTES} boxes take")
        write_atomically(self.files, self.metadata_path / name, data)

    def meta_file(self, role: str) -> MetaFile:
        """Version, length and sha256 of the newest file of a role, for snapshot and timestamp."""
        version = self.newest(role)
        path = self.metadata_path / f"{version}.{role}.json"
        data = self.files.read(path, MAX_METADATA_BYTES)
        return MetaFile.from_data(version, data, ["sha256"])

    def _listed(self) -> list[tuple[int, str]]:
        if not exists(self.files, self.metadata_path):
            return []
        names = (_VERSIONED.fullmatch(name) for name in self.files.listdir(self.metadata_path))
        return [(int(found[1]), found[2]) for found in names if found is not None]


def is_signed(
    metadata: Metadata[Any], delegator: Metadata[Root] | Metadata[Targets], role: str
) -> bool:
    """Whether `metadata` carries the signatures `delegator` asks of `role`."""
    try:
        _check(metadata, delegator, role)
    except BundleError:
        return False
    return True


def _check(
    metadata: Metadata[Any], delegator: Metadata[Root] | Metadata[Targets], role: str
) -> None:
    try:
        delegator.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError as error:
        raise BundleError(
            f"{role}.json",
            "is not signed by the keys it must be: it was altered, or its keys were rotated and "
            "it was not signed again",
        ) from error
    except (RepositoryError, ValueError) as error:
        raise BundleError(f"{role}.json", f"cannot be checked: {error}") from error
