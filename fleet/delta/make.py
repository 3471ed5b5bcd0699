"""Deltas between two published bundles, made of the blobs of the store.

Rules
- Every file that differs gets a delta, be it only the packed file: a box that may not fetch
  everything can then still move from one bundle to the other.
- A delta that is not smaller than the packed file is not kept; the packed file is.
- What was made is applied once before it is published, and must give the signed bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import zstandard

from edge_runtime.bundle.delta import WINDOW_LOG, Header, Segment, Side, apply_delta, difference
from edge_runtime.bundle.digests import FileDigest, bundle_digest, digest_chunks
from edge_runtime.bundle.files import Files
from edge_runtime.bundle.manifest import FileEntry, Manifest
from edge_runtime.bundle.targets import DeltaFile, DeltaSet
from edge_runtime.errors import BundleError
from fleet.blobs.store import BlobStore
from fleet.delta.segments import Tensor, aligned, by_data_file, segments, unrelated
from fleet.delta.tensors import external_tensors

MAX_GRAPH_BYTES = 256 * 1024 * 1024
LEVEL = 19
"""zstd's: slow to pack, as fast as any to unpack. A delta is made once."""

Placed = tuple[int, Segment]


def make_deltas(blobs: BlobStore, files: Files, base: Manifest, result: Manifest) -> DeltaSet:
    """Make, check and keep the deltas of all files that differ. The caller holds the lock.

    Costs minutes for gigabytes. Raises `BundleError` when nothing differs.
    """
    maker = _Maker(blobs, files, base, result)
    old = {entry.sha256 for entry in base.files}
    made = [maker.delta(entry) for entry in result.files if entry.sha256 not in old]
    if not made:
        raise BundleError(result.name, "the two bundles have the same files: nothing to make")
    return DeltaSet(
        name=result.name,
        base=bundle_digest(base),
        result=bundle_digest(result),
        files=tuple(made),
    )


class _Maker:
    def __init__(self, blobs: BlobStore, files: Files, base: Manifest, result: Manifest) -> None:
        self._blobs = blobs
        self._files = files
        self._base = base
        self._old_tensors = self._tensors(base)
        self._new_tensors = self._tensors(result)

    def delta(self, entry: FileEntry) -> DeltaFile:
        """The smallest of the ways to send a file."""
        base = self._base_of(entry)
        new = self._new_tensors.get(entry.path, [])
        ways: list[Callable[[], Iterable[Placed]]] = [lambda: unrelated(entry.size)]
        if new:
            old = self._old_tensors.get(base.path, [])
            ways.append(lambda: segments(old, new, entry.size))
        elif base.size == entry.size:
            ways.append(lambda: aligned(entry.size))
        made = [self._pack(base, entry, way()) for way in ways]
        best = min(made, key=lambda item: item.size)
        for other in made:
            if other.sha256 != best.sha256:
                self._blobs.discard(other.sha256)
        self._check(base, entry, best)
        listed = FileEntry(path=entry.path, size=best.size, sha256=best.sha256, blocks=best.blocks)
        return DeltaFile(base_path=base.path, base_sha256=base.sha256, delta=listed)

    def _base_of(self, entry: FileEntry) -> FileEntry:
        """The file of the base to start from: that of the same path, else any."""
        for other in self._base.files:
            if other.path == entry.path:
                return other
        return self._base.files[0]

    def _pack(self, base: FileEntry, entry: FileEntry, placed: Iterable[Placed]) -> FileDigest:
        old, new = self._blobs.path(base.sha256), self._blobs.path(entry.sha256)
        parts = [self._simplest(item, old, new) for item in placed]
        header = Header(
            base=Side(sha256=base.sha256, size=base.size),
            result=Side(sha256=entry.sha256, size=entry.size),
            segments=tuple(segment for _, segment in parts),
        )
        return self._blobs.put_chunks(self._chunks(header, parts, old, new))

    def _simplest(self, placed: Placed, old: Path, new: Path) -> Placed:
        """The segment, or `same` where nothing changed."""
        start, segment = placed
        if segment.op != "new" and self._old(segment, old) == self._new(placed, new):
            return start, Segment(op="same", length=segment.length, offset=segment.offset)
        return placed

    def _chunks(self, header: Header, parts: list[Placed], old: Path, new: Path) -> Iterator[bytes]:
        yield header.to_bytes()
        parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=WINDOW_LOG)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        for placed in parts:
            segment = placed[1]
            base = b"" if segment.op == "new" else self._old(segment, old)
            yield packer.compress(difference(segment, base, self._new(placed, new)))
        yield packer.flush()

    def _old(self, segment: Segment, path: Path) -> bytes:
        return self._files.read_at(path, segment.offset, segment.length)

    def _new(self, placed: Placed, path: Path) -> bytes:
        return self._files.read_at(path, placed[0], placed[1].length)

    def _check(self, base: FileEntry, entry: FileEntry, made: FileDigest) -> None:
        delta, old = self._blobs.path(made.sha256), self._blobs.path(base.sha256)
        found = digest_chunks(apply_delta(self._files, delta, old, base_sha256=base.sha256))
        if found != FileDigest.of_entry(entry):
            raise BundleError(entry.path, "its delta does not give its bytes: check the disk")

    def _tensors(self, manifest: Manifest) -> dict[str, list[Tensor]]:
        graphs = {item.graph for item in manifest.variants}
        graphs |= {item.native_graph for item in manifest.variants if item.native_graph}
        return by_data_file(
            external_tensors(path, self._blobs.read(manifest.entry(path).sha256, MAX_GRAPH_BYTES))
            for path in sorted(graphs)
        )
