"""From one published bundle to the next by tensor deltas: made, signed, fetched, applied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.agent.contract import FetchJob, NoDeltaError
from edge_runtime.agent.download import MemoryBlobs
from edge_runtime.agent.trust import Trust
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.pack import load_manifest, verify
from edge_runtime.bundle.store import Store
from edge_runtime.errors import BundleError
from fleet.publish.publish import find_bundle, published_manifest
from tests.support.downloads import Box, job_for
from tests.support.graphs import SCALES, WEIGHTS, write_graph_bundle
from tests.support.published import HOME, MemoryFleet, box_of, wanted


class Scene:
    """A fleet with two releases and a delta between them; a box that runs the first."""

    def __init__(self) -> None:
        self.fleet = MemoryFleet()
        for release in (1, 2):
            directory = Path(f"/build/{release}")
            write_graph_bundle(directory, self.fleet.files, release)
            self.fleet.publisher.bundle(directory)
        repository = self.fleet.repository
        self.first, self.second = (find_bundle(repository, "tiny", text) for text in "12")
        _, self.made = self.fleet.publisher.delta("tiny", self.first, self.second)

    @property
    def blobs(self) -> dict[str, bytes]:
        folder = HOME / "blobs" / "sha256"
        files = self.fleet.files
        return {name: files.read(folder / name, 1 << 30) for name in files.listdir(folder)}

    def box(self, blobs: dict[str, bytes], gate: Trust, files: CrashFiles | None = None) -> Box:
        box = Box(MemoryBlobs(blobs, name="a"), deltas=gate.delta, files=files)
        if files is None:
            write_graph_bundle(Path("/active"), box.files, 1)
        return box

    def job(self, *, full_allowed: bool = True) -> FetchJob:
        size = len(self.blobs[self.second])
        return job_for(
            self.second, size, release=2, base=Path("/active"), full_allowed=full_allowed
        )

    async def gate(self) -> Trust:
        gate = box_of(self.fleet)
        await gate.verify(wanted(self.second, release=2), now_s=None)
        return gate


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


async def test_a_box_moves_to_the_next_release_by_delta_alone(scene: Scene) -> None:
    box = scene.box(scene.blobs, await scene.gate())
    directory = await box.fetch(scene.job(full_allowed=False))
    manifest = load_manifest(directory, box.files)
    verify(directory, manifest, box.files)
    assert manifest.release == 2
    report = box.fetcher.report
    assert (report.full_bytes, report.here_bytes) == (0, 2)
    assert report.delta_bytes == sum(item.delta.size for item in scene.made.files)
    assert report.delta_bytes < 0.4 * (WEIGHTS.size + 4 * SCALES.size)


async def test_a_box_with_another_bundle_has_no_delta(scene: Scene) -> None:
    box = scene.box(scene.blobs, await scene.gate())
    write_graph_bundle(Path("/other"), box.files, 7)
    job = replace(scene.job(full_allowed=False), base=Path("/other"))
    with pytest.raises(NoDeltaError, match="no delta leads to it"):
        await box.fetch(job)
    await box.fetch(replace(job, full_allowed=True))
    assert box.fetcher.report.delta_bytes == 0


def spoil_delta(scene: Scene, blobs: dict[str, bytes]) -> None:
    largest = max(scene.made.files, key=lambda item: item.delta.size).delta.sha256
    blobs[largest] = blobs[largest][:-1] + bytes([blobs[largest][-1] ^ 1])


def spoil_set(scene: Scene, blobs: dict[str, bytes]) -> None:
    for sha256, data in blobs.items():
        if b"delta-set" in data:
            blobs[sha256] = data.replace(b"delta-set", b"delta-sex")


@pytest.mark.parametrize("spoil", [spoil_delta, spoil_set])
async def test_falling_back_is_a_matter_of_policy_and_never_silent(
    scene: Scene, spoil: Callable[[Scene, dict[str, bytes]], None]
) -> None:
    blobs = scene.blobs
    spoil(scene, blobs)
    box = scene.box(blobs, await scene.gate())
    with pytest.raises(NoDeltaError, match="a full download is not allowed"):
        await box.fetch(scene.job(full_allowed=False))
    box = scene.box(blobs, await scene.gate())
    await box.fetch(scene.job())
    assert box.fetcher.report.full_bytes > WEIGHTS.size
    (reason,) = box.fetcher.report.fallbacks
    assert "every source sent other bytes" in reason


async def test_a_base_that_decayed_is_noticed_before_anything_is_served(scene: Scene) -> None:
    box = scene.box(scene.blobs, await scene.gate())
    path = Path("/active/int8/model.onnx_data")
    size = box.files.stat(path).size
    box.files.truncate(path, size - 1)
    box.files.append(path, b"\0")
    directory = await box.fetch(scene.job())
    verify(directory, load_manifest(directory, box.files), box.files)
    assert "came out other than it was signed" in box.fetcher.report.fallbacks[0]


async def test_a_delta_between_other_bundles_is_not_published(scene: Scene) -> None:
    publisher = scene.fleet.publisher
    with pytest.raises(BundleError, match="is no published bundle"):
        publisher.delta("tiny", "0" * 64, scene.second)
    with pytest.raises(BundleError, match="nothing to make"):
        publisher.delta("tiny", scene.second, scene.second)
    with pytest.raises(BundleError, match="give a release number"):
        find_bundle(scene.fleet.repository, "tiny", "9")


def test_making_it_again_changes_nothing(scene: Scene) -> None:
    before = scene.fleet.metadata()
    _, made = scene.fleet.publisher.delta("tiny", scene.first, scene.second)
    assert made == scene.made
    assert scene.fleet.metadata() == before
    assert all(scene.fleet.repository.blobs.has(item.delta.sha256) for item in made.files)
    assert published_manifest(scene.fleet.repository, scene.second).release == 2


def test_after_every_power_cut_the_delta_is_applied_to_the_end(scene: Scene) -> None:
    async def install(files: CrashFiles) -> None:
        box = scene.box(scene.blobs, await scene.gate(), files)
        with Store.open(Path("/var/store"), files=files) as store:
            if scene.second not in store.digests():
                store.stage(await box.fetch(scene.job(full_allowed=False)), link=True)
            store.verify(scene.second)

    files = CrashFiles()
    write_graph_bundle(Path("/active"), files, 1)
    files.sync()
    asyncio.run(install(files))
    calls = len(files.calls)
    number = 0
    for crash in files.crashes(after=range(0, calls, 4), seeds=(0,)):
        asyncio.run(install(crash.files))
        number += 1
    assert number > 20
