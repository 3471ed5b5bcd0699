"""A published bundle, its blobs in memory, and a box that fetches it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.agent.contract import FetchJob, Trusted
from edge_runtime.agent.download import BundleFetcher, FetchLimits, MemoryBlobs
from edge_runtime.agent.download.blob import TransferLimits
from edge_runtime.agent.download.clock import ManualClock
from edge_runtime.agent.download.run import DeltaLookup
from edge_runtime.agent.protocol import ItemKind
from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.digests import bundle_digest
from edge_runtime.bundle.files import Files
from edge_runtime.bundle.manifest import BLOCK_BYTES, Manifest
from tests.support.bundles import write_tiny_bundle
from tests.support.published import wanted

SPOOL = Path("/var/spool/tiny")


@dataclass
class Shelf:
    """Bundles of one name by release, and all their blobs (manifests too) by sha256."""

    manifests: dict[int, Manifest] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def add(self, release: int, weights: bytes) -> str:
        """Make a bundle of that release; its digest."""
        files = CrashFiles()
        manifest = write_tiny_bundle(Path("/b"), files=files, release=release, weights=weights)
        self.manifests[release] = manifest
        data = canonical_bytes(manifest.document())
        self.blobs[bundle_digest(manifest)] = data
        for entry in manifest.files:
            self.blobs[entry.sha256] = files.read(Path("/b") / entry.path, 1 << 30)
        return bundle_digest(manifest)

    def install(self, files: Files, directory: Path, release: int, weights: bytes) -> Path:
        """Put a bundle on a box."""
        write_tiny_bundle(directory, files=files, release=release, weights=weights)
        return directory

    def weights(self, release: int) -> str:
        """The sha256 of a release's weights."""
        return self.manifests[release].entry("int8/model.onnx_data").sha256


def weights_of(blocks: float, seed: int = 1) -> bytes:
    """That many blocks of bytes that do not repeat."""
    return random.Random(seed).randbytes(int(blocks * BLOCK_BYTES))


def job_for(
    digest: str,
    size: int,
    *,
    release: int = 1,
    sources: Sequence[str] = ("a",),
    base: Path | None = None,
    full_allowed: bool = True,
    rate_bytes_s: int | None = None,
    kind: ItemKind = ItemKind.BUNDLE,
) -> FetchJob:
    """A job for a digest whose target file has `size` bytes."""
    return FetchJob(
        item=wanted(digest, release=release, kind=kind),
        trusted=Trusted(digest, size, release, 1),
        sources=tuple(sources),
        directory=SPOOL,
        base=base,
        full_allowed=full_allowed,
        rate_bytes_s=rate_bytes_s,
    )


class Box:
    """A fetcher over in-memory sources by name; `done` are the last progress numbers."""

    def __init__(
        self,
        *sources: MemoryBlobs,
        files: Files | None = None,
        deltas: DeltaLookup = lambda name, digest, base: None,
        limits: TransferLimits | None = None,
        clock: ManualClock | None = None,
        held: Callable[[], Sequence[Path]] = tuple,
    ) -> None:
        self.files = CrashFiles() if files is None else files
        self.clock = ManualClock() if clock is None else clock
        by_name = {source.name: source for source in sources}
        self.fetcher = BundleFetcher(
            by_name.__getitem__,
            deltas,
            held=held,
            files=self.files,
            clock=self.clock,
            limits=FetchLimits(transfer=limits or TransferLimits()),
        )
        self.done: list[tuple[int, int]] = []

    async def fetch(self, job: FetchJob) -> Path:
        """Fetch and return the directory."""
        return await self.fetcher.fetch(job, lambda done, total: self.done.append((done, total)))
