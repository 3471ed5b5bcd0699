"""One run of a download job: documents, files and deltas into the job's spool."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from edge_runtime.agent.contract import FetchJob, NoDeltaError, Progress
from edge_runtime.agent.download.blob import READ_BACK_TRIES, Transfer
from edge_runtime.agent.download.local import LocalFiles
from edge_runtime.agent.download.plan import BlobSpec, FilePlan, Way, plan_files
from edge_runtime.agent.download.spool import Part, Spool
from edge_runtime.agent.trust import TargetRef
from edge_runtime.bundle.delta import apply_delta
from edge_runtime.bundle.digests import bundle_digest
from edge_runtime.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from edge_runtime.bundle.pack import parse_manifest
from edge_runtime.bundle.targets import (
    MAX_DOCUMENT_BYTES,
    RELEASE_FILE,
    DeltaFile,
    parse_delta_set,
    parse_release,
)
from edge_runtime.errors import BundleError, CapacityError, EngineError

_log = structlog.get_logger(__name__)
_RETRY_FULL_S = 600.0

DeltaLookup = Callable[[str, str, str], TargetRef | None]
"""Name, wanted bundle digest, base bundle digest: the signed delta set, where there is one."""


@dataclass
class FetchReport:
    """What a job cost: bytes fetched whole, as deltas and as documents, and bytes used again.

    `fallbacks` says why a delta was not used where one was published.
    """

    full_bytes: int = 0
    delta_bytes: int = 0
    document_bytes: int = 0
    here_bytes: int = 0
    fallbacks: list[str] = field(default_factory=list)


class Run:
    """See the module; used once. `min_free_bytes` stay free on the disk."""

    def __init__(
        self,
        spool: Spool,
        transfer: Transfer,
        job: FetchJob,
        progress: Progress,
        min_free_bytes: int,
    ) -> None:
        self._spool = spool
        self._transfer = transfer
        self._job = job
        self._progress = progress
        self._min_free_bytes = min_free_bytes
        self._done_bytes = 0
        self._total_bytes = 0
        self.report = FetchReport()

    async def bundle(self, base: LocalFiles, here: LocalFiles, lookup: DeltaLookup) -> Path:
        """The directory of the wanted bundle, whole."""
        trusted = self._job.trusted
        document = await self.document(trusted.digest, trusted.size)
        data = await asyncio.to_thread(document.read, MAX_DOCUMENT_BYTES)
        manifest = parse_manifest(data)
        if bundle_digest(manifest) != trusted.digest or manifest.name != self._job.item.name:
            raise BundleError(MANIFEST_NAME, f"is not the bundle {self._job.item.name} wanted")
        deltas = await self._delta_files(manifest, base, lookup)
        found = await asyncio.to_thread(self._look_around, manifest, here)
        plans = plan_files(manifest, found, deltas, full_allowed=self._job.full_allowed)
        await asyncio.to_thread(self._check_space, plans)
        self._total_bytes = sum(plan.cost_bytes for plan in plans)
        self._progress(0, self._total_bytes)
        for plan in plans:
            await self._file(plan, found.get(plan.entry.sha256), base)
        await asyncio.to_thread(self._assemble, manifest, data)
        return self._spool.tree

    async def document(self, sha256: str, size: int) -> Part:
        """A small signed file."""
        if size > MAX_DOCUMENT_BYTES:
            raise BundleError(sha256[:12], f"is larger than {MAX_DOCUMENT_BYTES} bytes")
        part = await asyncio.to_thread(self._spool.part, BlobSpec.of_document(sha256, size))
        await self._transfer.complete(part, self._count_document)
        return part

    async def release(self) -> Path:
        """The folder that holds a release: its files and its document, and nothing else."""
        trusted = self._job.trusted
        document = await self.document(trusted.digest, trusted.size)
        data = await asyncio.to_thread(document.read, MAX_DOCUMENT_BYTES)
        release = parse_release(data)
        if release.name != self._job.item.name:
            raise BundleError(trusted.digest[:12], f"is a release of {release.name!r}")
        if any(entry.path == RELEASE_FILE for entry in release.files):
            raise BundleError(trusted.digest[:12], f"has a file called {RELEASE_FILE}")
        plans = [FilePlan(entry, Way.FULL, entry.size) for entry in release.files]
        missing = [
            plan for plan in plans if not self._spool.finished(plan.entry.path, plan.entry.size)
        ]
        await asyncio.to_thread(self._check_space, missing)
        self._total_bytes = sum(plan.cost_bytes for plan in missing)
        for plan in missing:
            await self._fetch_whole(plan.entry)
        await asyncio.to_thread(self._spool.write, RELEASE_FILE, data)
        return self._spool.tree

    async def _file(self, plan: FilePlan, found: Path | None, base: LocalFiles) -> None:
        entry = plan.entry
        if plan.way is Way.HERE:
            assert found is not None
            if not self._spool.finished(entry.path, entry.size):
                await asyncio.to_thread(self._reuse, found, entry)
            self.report.here_bytes += entry.size
        elif plan.way is Way.DELTA:
            assert plan.delta is not None
            try:
                await self._fetch_delta(entry, plan.delta, base)
            except BundleError as error:
                self._no_delta(entry.path, error)
                self._total_bytes += entry.size
                await self._fetch_whole(entry)
        else:
            await self._fetch_whole(entry)

    async def _fetch_whole(self, entry: FileEntry) -> None:
        part = await asyncio.to_thread(self._spool.part, BlobSpec.of_entry(entry))
        self._count(part.done_bytes)
        await self._transfer.complete(part, self._count_full)
        await asyncio.to_thread(self._spool.adopt, part.path, entry.path)

    async def _fetch_delta(self, entry: FileEntry, delta: DeltaFile, base: LocalFiles) -> None:
        changes = await asyncio.to_thread(self._spool.part, BlobSpec.of_entry(delta.delta))
        self._count(changes.done_bytes)
        await self._transfer.complete(changes, self._count_delta)
        part = await asyncio.to_thread(self._spool.part, BlobSpec.of_entry(entry))
        (directory,) = base.bundles
        for _ in range(READ_BACK_TRIES):
            await self._apply(part, changes.path, directory / delta.base_path, delta.base_sha256)
            if not part.resumed or await asyncio.to_thread(part.audit):
                break
        else:
            raise EngineError(f"{part.path}: the disk does not keep what is written; replace it")
        await asyncio.to_thread(self._spool.adopt, part.path, entry.path)

    async def _apply(self, part: Part, changes: Path, base: Path, base_sha256: str) -> None:
        """Add to `part` what the delta makes; every block is held against its signed hash."""
        signed = part.spec.blocks
        blocks = apply_delta(self._spool.files, changes, base, base_sha256=base_sha256)
        index = 0
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            if index >= len(signed) or hashlib.sha256(block).hexdigest() != signed[index]:
                raise BundleError("delta", f"block {index} came out other than it was signed")
            if index >= part.done:
                await asyncio.to_thread(part.append, index, block)
            index += 1
        if index != len(signed):
            raise BundleError("delta", "made less than the whole file")

    async def _delta_files(
        self, manifest: Manifest, base: LocalFiles, lookup: DeltaLookup
    ) -> Mapping[str, DeltaFile]:
        """Deltas by path that start from a file of the active bundle."""
        for old in base.bundles.values():
            digest = self._job.trusted.digest
            reference = lookup(manifest.name, digest, bundle_digest(old))
            if reference is None:
                continue
            try:
                part = await self.document(reference.sha256, reference.size)
                found = parse_delta_set(await asyncio.to_thread(part.read, MAX_DOCUMENT_BYTES))
                if (found.result, found.base) != (digest, bundle_digest(old)):
                    raise BundleError(reference.path, "is a delta between other bundles")
            except BundleError as error:
                self._no_delta("deltas", error)
                continue
            listed = {entry.path: entry.sha256 for entry in old.files}
            return {
                item.delta.path: item
                for item in found.files
                if listed.get(item.base_path) == item.base_sha256
            }
        return {}

    def _no_delta(self, path: str, error: BundleError) -> None:
        """A delta did not work out: say so, and go on only where the policy allows it."""
        reason = f"{path}: {error}"
        self.report.fallbacks.append(reason)
        allowed = self._job.full_allowed
        _log.warning("delta not used", action="delta_fallback", reason=reason, full=allowed)
        if not allowed:
            raise NoDeltaError(f"{reason}; a full download is not allowed") from error

    def _look_around(self, manifest: Manifest, here: LocalFiles) -> dict[str, Path]:
        """Whole files on this box, by sha256: finished ones first."""
        found: dict[str, Path] = {}
        for entry in manifest.files:
            if self._spool.finished(entry.path, entry.size):
                found[entry.sha256] = self._spool.tree / entry.path
            elif entry.sha256 not in found and (path := here.find(entry)) is not None:
                found[entry.sha256] = path
        return found

    def _check_space(self, plans: tuple[FilePlan, ...] | list[FilePlan]) -> None:
        needed = 0
        for plan in plans:
            if plan.way is not Way.HERE:
                needed += (
                    plan.entry.size - self._spool.part(BlobSpec.of_entry(plan.entry)).done_bytes
                )
            if plan.delta is not None:
                needed += plan.delta.delta.size
        free = self._spool.files.free_bytes(self._spool.tree) - self._min_free_bytes
        if needed > free:
            raise full(
                self._spool.tree, f"the download needs {needed} bytes, {max(free, 0)} may be used"
            )

    def _reuse(self, path: Path, entry: FileEntry) -> None:
        try:
            self._spool.adopt(path, entry.path)
        except OSError:  # another file system, or one without links
            part = self._spool.part(BlobSpec.of_entry(entry))
            for index, block in enumerate(self._spool.files.read_blocks(path)):
                if index >= part.done:
                    part.append(index, block)
            self._spool.adopt(part.path, entry.path)

    def _assemble(self, manifest: Manifest, data: bytes) -> None:
        """Give every path of the bundle its file; the manifest comes last."""
        first: dict[str, str] = {}
        for entry in manifest.files:
            if self._spool.finished(entry.path, entry.size):
                first.setdefault(entry.sha256, entry.path)
        for entry in manifest.files:
            if not self._spool.finished(entry.path, entry.size):
                self._reuse(self._spool.tree / first[entry.sha256], entry)
        self._spool.write(MANIFEST_NAME, data)

    def _count(self, size: int) -> None:
        self._done_bytes += size
        self._progress(self._done_bytes, max(self._total_bytes, self._done_bytes))

    def _count_full(self, size: int) -> None:
        self.report.full_bytes += size
        self._count(size)

    def _count_delta(self, size: int) -> None:
        self.report.delta_bytes += size
        self._count(size)

    def _count_document(self, size: int) -> None:
        self.report.document_bytes += size


def full(directory: Path, reason: str) -> CapacityError:
    """The disk is too full for a download."""
    return CapacityError(
        f"{directory}: {reason}; remove old bundles or free disk space",
        retry_after_s=_RETRY_FULL_S,
        status=503,
        reason="disk",
    )
