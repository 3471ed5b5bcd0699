"""Whatever call a publisher dies at, boxes find the old metadata or the new, and both are whole."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.errors import BundleError
from fleet.publish.publish import published_manifest
from fleet.publish.repository import Repository
from tests.support.bundles import write_tiny_bundle
from tests.support.published import HOME, MemoryFleet, box_of, wanted


async def test_a_crash_shows_boxes_the_old_state_or_the_new_and_is_run_again() -> None:
    fleet = MemoryFleet()
    first = fleet.publish(release=1)
    write_tiny_bundle(Path("/build/2"), files=fleet.files, release=2, weights=b"other weights")
    assert isinstance(fleet.files, CrashFiles)
    fleet.files.sync()
    second = fleet.publish(release=2)
    seen = set()
    for crash in fleet.files.crashes(seeds=()):
        fleet.files = crash.files
        fleet.repository = Repository(HOME, files=crash.files)
        box = box_of(fleet)
        try:
            await box.verify(wanted(second, release=2), now_s=None)
        except BundleError:
            seen.add("old")
            await box.verify(wanted(first), now_s=None)
        else:
            seen.add("new")
            manifest = published_manifest(fleet.repository, second)
            assert all(fleet.repository.blobs.has(entry.sha256) for entry in manifest.files)
        if crash.outcome == "everything":
            assert fleet.publish(release=2) == second
            assert await box_of(fleet).verify(wanted(second, release=2), now_s=None)
    assert seen == {"old", "new"}
