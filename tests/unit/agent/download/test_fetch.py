"""A bundle from sources that misbehave in every way we know of."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edge_runtime.agent.contract import NoDeltaError
from edge_runtime.agent.download import MemoryBlobs
from edge_runtime.agent.download.accounts import AccountLimits
from edge_runtime.agent.download.blob import TransferLimits
from edge_runtime.agent.download.clock import ManualClock
from edge_runtime.agent.protocol import ItemKind
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.manifest import BLOCK_BYTES, FileEntry
from edge_runtime.bundle.pack import load_manifest, verify
from edge_runtime.bundle.store import Store
from edge_runtime.bundle.targets import Release
from edge_runtime.errors import BundleError, CapacityError, EngineError, TransportError
from tests.support.downloads import SPOOL, Box, Shelf, job_for, weights_of

WEIGHTS = weights_of(3.3)


@pytest.fixture
def shelf() -> Shelf:
    made = Shelf()
    made.add(1, WEIGHTS)
    return made


def digest_of(shelf: Shelf, release: int = 1) -> str:
    from edge_runtime.bundle.digests import bundle_digest

    return bundle_digest(shelf.manifests[release])


def check_whole(box: Box, directory: Path) -> None:
    manifest = load_manifest(directory, box.files)
    verify(directory, manifest, box.files)


async def test_a_bundle_comes_whole_and_can_be_staged(shelf: Shelf) -> None:
    digest = digest_of(shelf)
    box = Box(MemoryBlobs(shelf.blobs, name="a"))
    directory = await box.fetch(job_for(digest, len(shelf.blobs[digest])))
    check_whole(box, directory)
    with Store.open(Path("/var/store"), files=box.files) as store:
        assert store.stage(directory, link=True) == digest
    total = len(WEIGHTS) + 7
    assert box.done[0] == (0, total)
    assert box.done[-1] == (total, total)
    assert box.fetcher.report.full_bytes == total


async def test_fetching_again_asks_for_nothing(shelf: Shelf) -> None:
    digest = digest_of(shelf)
    source = MemoryBlobs(shelf.blobs, name="a")
    box = Box(source)
    await box.fetch(job_for(digest, len(shelf.blobs[digest])))
    asked = len(source.asked)
    check_whole(box, await box.fetch(job_for(digest, len(shelf.blobs[digest]))))
    assert len(source.asked) == asked


@pytest.mark.parametrize(
    "word", ["corrupt", "truncate", "endless", "missing", "refuse", "disconnect", "slow"]
)
async def test_one_bad_source_costs_time_and_nothing_else(shelf: Shelf, word: str) -> None:
    digest = digest_of(shelf)
    clock = ManualClock()
    bad = MemoryBlobs(
        shelf.blobs, name="bad", clock=clock, trouble=lambda source, sha256, start: word
    )
    good = MemoryBlobs(shelf.blobs, name="good")
    box = Box(bad, good, clock=clock)
    job = job_for(digest, len(shelf.blobs[digest]), sources=("bad", "good"))
    check_whole(box, await box.fetch(job))
    assert bad.asked


@pytest.mark.parametrize(
    ("word", "error", "reason"),
    [
        ("corrupt", BundleError, "every source sent other bytes"),
        ("truncate", TransportError, "of 2097152 bytes"),
        ("endless", TransportError, "more than was asked for"),
        ("missing", TransportError, "does not have it"),
        ("refuse", TransportError, "cannot be reached"),
        ("disconnect", TransportError, "broke off"),
        ("slow", TransportError, "is too slow"),
    ],
)
async def test_when_every_source_is_bad_the_error_says_how(
    shelf: Shelf, word: str, error: type[Exception], reason: str
) -> None:
    digest, weights = digest_of(shelf), shelf.weights(1)
    clock = ManualClock()
    source = MemoryBlobs(
        shelf.blobs,
        name="a",
        clock=clock,
        trouble=lambda source, sha256, start: word if sha256 == weights else None,
    )
    box = Box(source, clock=clock)
    with pytest.raises(error, match=reason):
        await box.fetch(job_for(digest, len(shelf.blobs[digest])))
    assert len(source.asked) < 40  # it gives up


async def test_troubles_in_turn_are_outlived(shelf: Shelf) -> None:
    """Every third answer is wrong in another way; no block is written twice."""
    digest = digest_of(shelf)
    words = ["refuse", "truncate", "disconnect"]
    count = 0

    def trouble(source: MemoryBlobs, sha256: str, start: int) -> str | None:
        nonlocal count
        count += 1
        return words[count // 3 % 3] if count % 3 == 0 else None

    limits = TransferLimits(accounts=AccountLimits(max_failures=50))
    box = Box(MemoryBlobs(shelf.blobs, name="a", trouble=trouble), limits=limits)
    check_whole(box, await box.fetch(job_for(digest, len(shelf.blobs[digest]))))
    assert box.fetcher.report.full_bytes == len(WEIGHTS) + 7


async def test_a_manifest_other_than_the_signed_one_is_refused(shelf: Shelf) -> None:
    digest = digest_of(shelf)
    source = MemoryBlobs({**shelf.blobs, digest: b"{}"}, name="a")
    with pytest.raises(TransportError, match=r"sent 2 of \d+ bytes"):
        await Box(source).fetch(job_for(digest, len(shelf.blobs[digest])))
    with pytest.raises(BundleError, match="other bytes"):
        await Box(source).fetch(job_for(digest, 2))


async def test_a_bundle_of_another_name_is_refused(shelf: Shelf) -> None:
    digest = digest_of(shelf)
    job = job_for(digest, len(shelf.blobs[digest]))
    other = job.item.model_copy(update={"name": "other"})
    box = Box(MemoryBlobs(shelf.blobs, name="a"))
    from dataclasses import replace

    with pytest.raises(BundleError, match="is not the bundle other wanted"):
        await box.fetch(replace(job, item=other))


# Pace and memory


async def test_the_pace_holds_over_all_connections(shelf: Shelf) -> None:
    digest = digest_of(shelf)
    box = Box(MemoryBlobs(shelf.blobs, name="a"))
    await box.fetch(job_for(digest, len(shelf.blobs[digest]), rate_bytes_s=1_000_000))
    assert box.clock.now_s() >= (len(WEIGHTS) - 256 * 1024) / 1_000_000


async def test_a_slow_pace_is_not_held_against_the_source(shelf: Shelf) -> None:
    digest = digest_of(shelf)
    box = Box(MemoryBlobs(shelf.blobs, name="a"))
    check_whole(box, await box.fetch(job_for(digest, len(shelf.blobs[digest]), rate_bytes_s=1024)))


async def test_no_more_blocks_than_the_window_are_on_their_way(shelf: Shelf) -> None:
    digest, weights = digest_of(shelf), shelf.weights(1)
    behind: list[int] = []

    def trouble(source: MemoryBlobs, sha256: str, start: int) -> str | None:
        if sha256 == weights:
            behind.append(start // BLOCK_BYTES - done_blocks(box, weights))
        return None

    source = MemoryBlobs(shelf.blobs, name="a", trouble=trouble)
    box = Box(source, limits=TransferLimits(window_blocks=2))
    await box.fetch(job_for(digest, len(shelf.blobs[digest])))
    assert max(behind) == 1


def done_blocks(box: Box, sha256: str) -> int:
    return box.files.stat(SPOOL / next(iter(box.files.listdir(SPOOL))) / "parts" / sha256).size // (
        BLOCK_BYTES
    )


# What is here already


async def test_files_of_the_active_bundle_are_linked_not_fetched(shelf: Shelf) -> None:
    second = shelf.add(2, weights_of(1.5, seed=2))
    source = MemoryBlobs(shelf.blobs, name="a")
    box = Box(source)
    base = shelf.install(box.files, Path("/active"), 1, WEIGHTS)
    check_whole(
        box, await box.fetch(job_for(second, len(shelf.blobs[second]), release=2, base=base))
    )
    assert {sha256 for sha256, _, _ in source.asked} == {second, shelf.weights(2)}
    assert box.fetcher.report.here_bytes == 7


async def test_a_local_file_that_decayed_is_fetched(shelf: Shelf) -> None:
    digest = digest_of(shelf)
    box = Box(MemoryBlobs(shelf.blobs, name="a"), held=lambda: [Path("/old")])
    shelf.install(box.files, Path("/old"), 1, WEIGHTS)
    box.files.truncate(Path("/old/int8/model.onnx_data"), 0)
    box.files.append(Path("/old/int8/model.onnx_data"), bytes(len(WEIGHTS)))
    check_whole(box, await box.fetch(job_for(digest, len(shelf.blobs[digest]))))
    assert (box.fetcher.report.full_bytes, box.fetcher.report.here_bytes) == (len(WEIGHTS), 7)


async def test_where_links_do_not_work_files_are_copied(shelf: Shelf) -> None:
    digest = digest_of(shelf)

    def no_links(method: str, path: Path) -> None:
        if method == "link":
            raise OSError(errno.EXDEV, "cross-device")

    source = MemoryBlobs(shelf.blobs, name="a")
    box = Box(source, files=CrashFiles(on_call=no_links), held=lambda: [Path("/old")])
    shelf.install(box.files, Path("/old"), 1, WEIGHTS)
    check_whole(box, await box.fetch(job_for(digest, len(shelf.blobs[digest]))))
    assert {sha256 for sha256, _, _ in source.asked} == {digest}


async def test_a_download_of_another_digest_makes_room(shelf: Shelf) -> None:
    first, second = digest_of(shelf), shelf.add(2, weights_of(0.5, seed=2))
    box = Box(MemoryBlobs(shelf.blobs, name="a"))
    await box.fetch(job_for(first, len(shelf.blobs[first])))
    await box.fetch(job_for(second, len(shelf.blobs[second]), release=2))
    assert box.files.listdir(SPOOL) == [second]


# The disk


async def test_too_little_space_is_said_before_a_large_byte_comes(shelf: Shelf) -> None:
    digest = digest_of(shelf)
    source = MemoryBlobs(shelf.blobs, name="a")
    box = Box(source, files=CrashFiles(free=256 * 1024 * 1024 + 1000))
    with pytest.raises(CapacityError, match=r"needs \d+ bytes, 1000 may be used"):
        await box.fetch(job_for(digest, len(shelf.blobs[digest])))
    assert {sha256 for sha256, _, _ in source.asked} == {digest}


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, CapacityError), (errno.EIO, EngineError)]
)
async def test_a_disk_that_fails_meanwhile_is_told_apart_from_a_full_one(
    shelf: Shelf, code: int, error: type[Exception]
) -> None:
    digest = digest_of(shelf)
    appended = 0

    def fail(method: str, path: Path) -> None:
        nonlocal appended
        appended += method == "append" and path.parent.name == "parts"
        if appended == 3:
            raise OSError(code, "disk")

    files = CrashFiles(on_call=fail)
    source = MemoryBlobs(shelf.blobs, name="a")
    box = Box(source, files=files)
    job = job_for(digest, len(shelf.blobs[digest]))
    with pytest.raises(error):
        await box.fetch(job)
    files.on_call = None
    check_whole(box, await box.fetch(job))


async def test_a_resumed_part_that_decayed_is_cut_to_its_good_blocks(shelf: Shelf) -> None:
    digest, weights = digest_of(shelf), shelf.weights(1)
    stop = MemoryBlobs(
        shelf.blobs,
        name="a",
        trouble=lambda source, sha256, start: (
            "refuse" if sha256 == weights and start == 2 * BLOCK_BYTES else None
        ),
    )
    box = Box(stop)
    job = job_for(digest, len(shelf.blobs[digest]))
    with pytest.raises(TransportError):
        await box.fetch(job)
    part = SPOOL / digest / "parts" / weights
    assert box.files.stat(part).size == 2 * BLOCK_BYTES
    good = box.files.read(part, BLOCK_BYTES)
    box.files.truncate(part, BLOCK_BYTES)
    box.files.append(part, bytes(BLOCK_BYTES))
    again = MemoryBlobs(shelf.blobs, name="a")
    second = Box(again, files=box.files)
    check_whole(second, await second.fetch(job))
    starts = [start for sha256, start, _ in again.asked if sha256 == weights]
    assert good == WEIGHTS[:BLOCK_BYTES]
    assert min(starts) == BLOCK_BYTES


# Settings and releases


async def test_settings_are_one_file_by_their_digest(shelf: Shelf) -> None:
    import hashlib

    data = b"signed settings"
    digest = hashlib.sha256(data).hexdigest()
    box = Box(MemoryBlobs({digest: data}, name="a"))
    path = await box.fetch(job_for(digest, len(data), kind=ItemKind.SETTINGS))
    assert box.files.read(path, 100) == data


@pytest.mark.parametrize("name", ["edge.whl", "release.json"])
async def test_a_release_is_the_folder_of_its_files_and_its_document(
    shelf: Shelf, name: str
) -> None:
    import hashlib

    wheel = b"wheel"
    sha256 = hashlib.sha256(wheel).hexdigest()
    entry = FileEntry(path=name, size=5, sha256=sha256, blocks=(sha256,))
    data = Release(name="tiny", version="1", files=(entry,)).canonical()
    digest = hashlib.sha256(data).hexdigest()
    box = Box(MemoryBlobs({digest: data, sha256: wheel}, name="a"))
    job = job_for(digest, len(data), kind=ItemKind.DAEMON)
    if name == "release.json":
        with pytest.raises(BundleError, match="file called release"):
            await box.fetch(job)
        return
    path = await box.fetch(job)
    assert box.files.listdir(path) == ["edge.whl", "release.json"]
    assert box.files.read(path / "edge.whl", 100) == wheel
    assert box.files.read(path / "release.json", 1000) == data
    assert await box.fetch(job) == path


async def test_without_deltas_a_box_that_may_not_fetch_everything_fetches_nothing(
    shelf: Shelf,
) -> None:
    digest = digest_of(shelf)
    source = MemoryBlobs(shelf.blobs, name="a")
    box = Box(source)
    with pytest.raises(NoDeltaError):
        await box.fetch(job_for(digest, len(shelf.blobs[digest]), full_allowed=False))
    assert {sha256 for sha256, _, _ in source.asked} == {digest}
