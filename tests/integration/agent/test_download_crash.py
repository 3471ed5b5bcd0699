"""Whatever call a power cut comes after, a download goes on and the store takes a whole bundle.

A download and its staging are recorded on `CrashFiles`. Every power cut they allow is then opened:
the download is run again and must end with the bundle in the store, without fetching again any
block that had been acknowledged. The last test removes one fsync at a time: a power cut must show
it, or the fsync is not worth having.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from edge_runtime.agent.download import MemoryBlobs
from edge_runtime.agent.download.plan import BlobSpec
from edge_runtime.agent.download.spool import Spool
from edge_runtime.bundle.crash import Crash, CrashFiles
from edge_runtime.bundle.digests import FileDigest, digest_chunks
from edge_runtime.bundle.store import Store
from edge_runtime.errors import EdgeError
from tests.support.downloads import Box, Shelf, job_for

STORE = Path("/var/store")
BLOCK = 8  # bytes of a block in the spool's own tests
DATA = bytes(range(37))
Fsync = tuple[str, ...]


def small_spec(data: bytes) -> BlobSpec:
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    hashes = tuple(digest_chunks((block,)).sha256 for block in blocks)
    return BlobSpec(digest_chunks((data,)).sha256, len(data), hashes, BLOCK)


class ForgetfulFiles(CrashFiles):
    """Loses every fsync equal to `lose`: the lines of the spool that led to it."""

    def __init__(self, lose: Fsync | None = None) -> None:
        super().__init__()
        self.lose = lose
        self.fsyncs: set[Fsync] = set()

    def _lost(self, path: Path) -> bool:
        lines = []
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename.endswith(("download/spool.py", "bundle/files.py")):
                lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            frame = frame.f_back
        fsync = (*lines, path.name if len(path.name) < 64 else "<sha256>")
        self.fsyncs.add(fsync)
        return fsync == self.lose

    def fsync_file(self, path: Path) -> None:
        if not self._lost(path):
            super().fsync_file(path)

    def fsync_dir(self, path: Path) -> None:
        if not self._lost(path):
            super().fsync_dir(path)


def fill(files: CrashFiles, spec: BlobSpec, stop: int | None = None) -> Iterator[int]:
    """Open the spool, add the blocks that are missing, adopt; yields what is acknowledged."""
    spool = Spool(Path("/spool"), files)
    spool.open()
    if spool.finished("a/b.bin", spec.size):
        yield len(spec.blocks)
        return
    part = spool.part(spec)
    yield part.done
    while not part.complete and part.done != stop:
        start, length = spec.span(part.done)
        part.append(part.done, DATA[start : start + length])
        yield part.done
    if part.complete:
        if part.resumed:
            assert part.audit(), "acknowledged blocks must not decay by a power cut"
        spool.adopt(part.path, "a/b.bin")


def check_spool(lose: Fsync | None = None) -> ForgetfulFiles:
    """Two starts, the second after a stop half way; every power cut of both."""
    spec = small_spec(DATA)
    files = ForgetfulFiles(lose)
    promises = [(0, 0)]
    for done in fill(files, spec, stop=2):
        promises.append((len(files.calls), done))  # noqa: PERF401 - calls grow meanwhile
    files.append(Path("/spool/journal"), b"a torn li")  # as a power cut may leave it
    for done in fill(files, spec):
        promises.append((len(files.calls), done))  # noqa: PERF401
    promises.append((len(files.calls), len(spec.blocks)))
    for crash in files.crashes():
        promised = max(done for since, done in promises if since <= crash.calls_made)
        first = None
        for done in fill(crash.files, spec):
            first = done if first is None else first
        assert first is not None
        assert first >= promised, "an acknowledged block would be fetched again"
        path = Path("/spool/tree/a/b.bin")
        assert digest_chunks((crash.files.read(path, 99),)) == digest_chunks((DATA,))
    return files


def test_acknowledged_blocks_survive_every_power_cut() -> None:
    assert check_spool().fsyncs


def test_no_fsync_of_the_spool_can_be_removed() -> None:
    unneeded = []
    for fsync in sorted(check_spool().fsyncs):
        try:
            check_spool(fsync)
        except (AssertionError, OSError):
            continue
        unneeded.append(fsync)
    assert unneeded == []


# The whole way: manifest, files, a reused file, staging


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    made = Shelf()
    made.add(1, b"w" * 100)
    made.add(2, b"v" * 120)
    return made


async def install(files: CrashFiles, shelf: Shelf, source: MemoryBlobs) -> str:
    """Download release 2 beside the active release 1, and stage it."""
    box = Box(source, files=files)
    digest = next(sha for sha, data in shelf.blobs.items() if b'"release":2' in data)
    job = job_for(digest, len(shelf.blobs[digest]), release=2, base=Path("/active"))
    with Store.open(STORE, files=files) as store:
        if digest not in store.digests():
            store.stage(await box.fetch(job), link=True)
        store.verify(digest)
    return digest


def recorded(shelf: Shelf) -> CrashFiles:
    files = CrashFiles()
    shelf.install(files, Path("/active"), 1, b"w" * 100)
    files.sync()
    asyncio.run(install(files, shelf, MemoryBlobs(shelf.blobs, name="a")))
    return files


def test_download_and_staging_end_after_every_power_cut(shelf: Shelf) -> None:
    files = recorded(shelf)
    number = 0
    for crash in files.crashes(seeds=(0,)):
        asyncio.run(check_install(crash, shelf))
        number += 1
    assert number > 100


async def check_install(crash: Crash, shelf: Shelf) -> None:
    source = MemoryBlobs(shelf.blobs, name="a")
    digest = await install(crash.files, shelf, source)
    with Store.open(STORE, files=crash.files) as store:
        assert store.verify(digest).release == 2
    manifest = shelf.manifests[1]
    for entry in manifest.files:  # the active bundle is untouched
        data = crash.files.read(Path("/active") / entry.path, 1000)
        assert digest_chunks((data,)) == FileDigest.of_entry(entry)


def test_after_a_kill_at_any_call_a_second_run_ends_it(shelf: Shelf) -> None:
    total = len(recorded(shelf).calls)
    for kept in range(0, total, 3):
        files = CrashFiles()
        shelf.install(files, Path("/active"), 1, b"w" * 100)
        files.sync()
        files.on_call = DiesAfter(kept)
        with pytest.raises(EdgeError):
            asyncio.run(install(files, shelf, MemoryBlobs(shelf.blobs, name="a")))
        files.on_call = None
        asyncio.run(install(files, shelf, MemoryBlobs(shelf.blobs, name="a")))


class DiesAfter:
    """Lets so many calls pass; every later one fails."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, method: str, path: Path) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "Input/output error", str(path))
