"""One round of python-tuf's client workflow over metadata handed in, and what came of it.

Rules
- python-tuf works in a scratch folder that starts with what was accepted before; nothing there is
  promised to be durable. What it put there it had verified, also when the round fails later: the
  caller keeps that, so that a newer version once seen is never forgotten.
- Its errors become those of this project: bad content, expired, or not reachable.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib import parse

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Snapshot, TargetFile
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_runtime.agent.contract import MetadataExpiredError
from edge_runtime.agent.trust.sources import MetadataSource, MissingError
from edge_runtime.agent.trust.state import Accepted
from edge_runtime.errors import BundleError, EdgeError, TransportError

_BASE = "https://metadata.invalid/"
_NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest metadata files in bytes, and longest chains."""

    root_bytes: int = 512_000
    timestamp_bytes: int = 16_384
    snapshot_bytes: int = 2_000_000
    targets_bytes: int = 5_000_000
    max_root_rotations: int = 256
    max_delegations: int = 32

    def config(self) -> UpdaterConfig:
        """The same for python-tuf."""
        return UpdaterConfig(
            max_root_rotations=self.max_root_rotations,
            max_delegations=self.max_delegations,
            root_max_length=self.root_bytes,
            timestamp_max_length=self.timestamp_bytes,
            snapshot_max_length=self.snapshot_bytes,
            targets_max_length=self.targets_bytes,
        )

    @property
    def largest(self) -> int:
        """The most bytes any file may have."""
        return max(self.root_bytes, self.timestamp_bytes, self.snapshot_bytes, self.targets_bytes)


@dataclass(frozen=True)
class Round:
    """`accepted` is to be kept in any case. `error` says why `found` could not be answered."""

    accepted: Accepted
    found: TargetFile | None
    error: EdgeError | None


class _Fetcher(FetcherInterface):
    """python-tuf's way to a `MetadataSource`; it checks each file's own limit itself."""

    def __init__(self, source: MetadataSource, limit: int) -> None:
        self._source = source
        self._limit = limit

    def _fetch(self, url: str) -> Iterator[bytes]:
        file = url.removeprefix(_BASE)
        try:
            return iter((self._source.get(file, self._limit),))
        except MissingError as error:
            raise DownloadHTTPError(str(error), _NOT_FOUND) from error
        except TransportError as error:
            raise DownloadError(str(error)) from error


class _Cached:
    """What was accepted, as a source: a round over it checks signatures and dates again."""

    name = "what this box has"

    def __init__(self, accepted: Accepted) -> None:
        self._roles = accepted.roles

    def get(self, file: str, limit: int) -> bytes:
        number, _, rest = file.partition(".")
        name = (rest if number.isdigit() else file).removesuffix(".json")
        if name not in self._roles:
            raise MissingError(f"this box has no {name} metadata and reached nobody who has")
        return self._roles[name][: limit + 1]


def cached(accepted: Accepted) -> MetadataSource:
    """A source that has only what was accepted before."""
    return _Cached(accepted)


def run_round(
    accepted: Accepted, source: MetadataSource, path: str | None, role: str, limits: Limits
) -> Round:
    """Refresh from `source`, then look up the target `path` that `role` may sign, if one is named.

    `found` stays None when nobody signed it. Blocks on the source. Never raises for what the
    source sent.
    """
    found: TargetFile | None = None
    error: EdgeError | None = None
    with tempfile.TemporaryDirectory(prefix="edge-trust-") as scratch:
        folder = Path(scratch)
        for name, data in accepted.roles.items():
            (folder / f"{parse.quote(name, '')}.json").write_bytes(data)
        try:
            updater = Updater(
                scratch,
                _BASE,
                fetcher=_Fetcher(source, limits.largest),
                config=limits.config(),
                bootstrap=accepted.root,
            )
            updater.refresh()
            if path is not None and _has_signed(folder, role):
                found = updater.get_targetinfo(path)
        except (RepositoryError, DownloadError) as fault:
            error = _translate(fault, source.name)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
            error = BundleError(f"metadata of {source.name}", f"is malformed: {fault!r:.200}")
        return Round(_collect(folder, accepted), found, error)


def _has_signed(folder: Path, role: str) -> bool:
    """Whether the accepted snapshot names metadata of a role: delegated is not yet published."""
    snapshot = Metadata[Snapshot].from_bytes((folder / "snapshot.json").read_bytes()).signed
    return f"{role}.json" in snapshot.meta


def _collect(folder: Path, before: Accepted) -> Accepted:
    root = folder / "root.json"
    roles = {
        parse.unquote(path.name.removesuffix(".json")): path.read_bytes()
        for path in sorted(folder.glob("*.json"))
        if path != root
    }
    return Accepted(root.read_bytes() if root.exists() else before.root, roles)


def _translate(fault: Exception, source: str) -> EdgeError:
    """The family of a python-tuf error, with what to do about it."""
    where = f"metadata of {source}"
    if isinstance(fault, ExpiredMetadataError):
        return MetadataExpiredError(
            f"{where}: {fault}: check this box's clock; else the fleet's operator must sign it "
            "again (`edge-fleet timestamp`). What serves goes on"
        )
    if isinstance(fault, BadVersionNumberError):
        return BundleError(where, f"is older than what this box has seen (rollback?): {fault}")
    if isinstance(fault, UnsignedMetadataError):
        return BundleError(
            where,
            f"is not signed by the keys this box trusts: {fault}. Enrol again if they are new",
        )
    if isinstance(fault, LengthOrHashMismatchError):
        return BundleError(where, f"does not belong together (mix-and-match?): {fault}")
    if isinstance(fault, DownloadLengthMismatchError):
        return BundleError(where, f"is larger than the limits of this box: {fault}")
    if isinstance(fault, DownloadError):
        return TransportError(f"{where}: {fault}")
    return BundleError(where, f"is refused: {fault}")
