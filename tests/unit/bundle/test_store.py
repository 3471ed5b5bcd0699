"""What the store does and refuses; a refusal changes nothing that is active."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from edge_runtime.bundle.activation import Committed, Refused
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.digests import bundle_digest
from edge_runtime.bundle.files import Files
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.pointers import RecoveryAction
from edge_runtime.bundle.store import Store, StoreLimits
from edge_runtime.errors import BundleError, CapacityError, ConfigError, EngineError
from tests.support.bundles import FakeLoader, write_tiny_bundle

ROOT = Path("/store")
ONE, TWO = Path("/media/1"), Path("/media/2")


class Disk(CrashFiles):
    """Fails every call of `fail_method` with `code`."""

    fail_method = ""
    code = errno.EIO

    def __init__(self) -> None:
        super().__init__(on_call=self._maybe_fail)

    def _maybe_fail(self, method: str, path: Path) -> None:
        if method == self.fail_method:
            raise OSError(self.code, os.strerror(self.code), str(path))


@pytest.fixture
def files() -> Disk:
    disk = Disk()
    write_tiny_bundle(ONE, files=disk, version="1")
    write_tiny_bundle(TWO, files=disk, version="2", weights=b"weights 2")
    return disk


@pytest.fixture
def store(files: Disk) -> Iterator[Store]:
    with Store.open(ROOT, files=files) as opened:
        yield opened


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


def overwrite(files: Files, path: Path, data: bytes) -> None:
    files.truncate(path, 0)
    files.append(path, data)


def activated(store: Store, source: Path, name: str = "tiny") -> str:
    digest = store.stage(source)
    assert isinstance(store.activate(name, digest, FakeLoader()), Committed)
    return digest


def test_staging_activating_and_reverting(store: Store, loader: FakeLoader) -> None:
    one, two = store.stage(ONE), store.stage(TWO)
    assert store.digests() == tuple(sorted((one, two)))
    assert store.active() == {}
    assert isinstance(store.activate("tiny", one, loader), Committed)
    outcome = store.activate("tiny", two, loader)
    assert isinstance(outcome, Committed)
    assert store.active() == {"tiny": outcome.pointer}
    assert (outcome.pointer.bundle_digest, outcome.pointer.previous) == (two, one)
    outcome = store.revert("tiny", loader)
    assert isinstance(outcome, Committed)
    assert (outcome.pointer.bundle_digest, outcome.pointer.previous) == (one, two)
    assert outcome.pointer.sequence == 3
    assert loader.events == ["load 1", "commit", "load 2", "commit", "load 1", "commit"]


def test_names_are_independent(store: Store, files: Disk) -> None:
    write_tiny_bundle(Path("/media/other"), files=files, name="other")
    one, other = activated(store, ONE), activated(store, Path("/media/other"), "other")
    two = activated(store, TWO)
    active = {name: pointer.bundle_digest for name, pointer in store.active().items()}
    assert active == {"tiny": two, "other": other}
    assert store.active()["tiny"].previous == one


def test_a_staged_bundle_is_the_source_byte_for_byte(store: Store, files: Disk) -> None:
    digest = store.stage(ONE)
    for path in ("manifest.json", "tokenizer.json", "int8/model.onnx", "int8/model.onnx_data"):
        assert files.read(store.directory(digest) / path, 9999) == files.read(ONE / path, 9999)
    assert bundle_digest(store.verify(digest)) == digest


def test_staging_twice_copies_once(store: Store, files: Disk) -> None:
    digest = store.stage(ONE)
    files.sync()
    assert store.stage(ONE) == digest
    assert {call.method for call in files.calls} == {"fsync_dir"}


def test_linking_shares_bytes_and_is_as_durable(store: Store, files: Disk) -> None:
    digest = store.stage(ONE, link=True)
    linked = [call.path.name for call in files.calls if call.method == "link"]
    assert linked == ["model.onnx", "model.onnx_data", "tokenizer.json"]
    for crash in files.crashes(after=[len(files.calls)]):
        with Store.open(ROOT, files=crash.files) as after:
            assert after.verify(digest).name == "tiny"


def test_linking_falls_back_to_copying(store: Store, files: Disk) -> None:
    files.fail_method, files.code = "link", errno.EXDEV
    assert store.verify(store.stage(ONE, link=True)).version == "1"
    files.code = errno.EIO
    with pytest.raises(EngineError, match="check the disk"):
        store.stage(TWO, link=True)


def test_a_damaged_bundle_is_replaced_by_staging_it_again(store: Store, files: Disk) -> None:
    digest = activated(store, ONE)
    overwrite(files, store.directory(digest) / "tokenizer.json", b"[]")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        store.verify(digest)
    assert store.stage(ONE) == digest
    assert store.verify(digest).name == "tiny"
    assert files.listdir(ROOT / "staging") == []


def test_refused_sources_change_nothing(store: Store, files: Disk) -> None:
    activated(store, ONE)
    before = files.tree()
    files.append(TWO / "tokenizer.json", b" ")
    with pytest.raises(BundleError, match=r"tokenizer\.json: has 3 bytes"):
        store.stage(TWO)
    overwrite(files, TWO / "tokenizer.json", b"[]")
    with pytest.raises(BundleError, match=r"tokenizer\.json: .*sha256"):
        store.stage(TWO)
    overwrite(files, TWO / "tokenizer.json", b"{}")
    assert files.tree() == before


def test_a_source_that_grows_while_it_is_copied_is_refused(
    store: Store, files: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "read_blocks", lambda path, size=0: iter([b"123", b"4" * 99]))
    with pytest.raises(BundleError, match="has more than 5 bytes"):
        store.stage(ONE)
    assert store.digests() == ()
    assert files.listdir(ROOT / "staging") == []


@pytest.mark.parametrize("link", [False, True])
def test_too_full_a_disk_is_a_capacity_error(store: Store, files: Disk, link: bool) -> None:
    files.free = 256 * 1024 * 1024 + 15
    if link:
        assert store.stage(ONE, link=True)
        return
    with pytest.raises(CapacityError, match="needs 16 bytes and the store may take 15") as caught:
        store.stage(ONE)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 60.0)
    files.free = 0
    with pytest.raises(CapacityError, match="may take 0"):
        store.stage(ONE)
    assert store.digests() == ()


def test_a_disk_that_fills_while_copying_is_a_capacity_error(store: Store, files: Disk) -> None:
    files.fail_method, files.code = "append", errno.ENOSPC
    with pytest.raises(CapacityError, match="is full"):
        store.stage(ONE)
    assert files.listdir(ROOT / "staging") == []


def test_oversized_bundles_are_refused(files: Disk) -> None:
    limits = StoreLimits(max_bundle_bytes=15)
    refused = pytest.raises(BundleError, match="lists 16 bytes, more than the 15")
    with Store.open(ROOT, files=files, limits=limits) as store, refused:
        store.stage(ONE)


def test_activating_what_is_active_loads_nothing(store: Store, loader: FakeLoader) -> None:
    one = activated(store, ONE)
    before = store.active()["tiny"]
    assert store.activate("tiny", one, loader) == Committed(before)
    assert loader.events == []


@pytest.mark.parametrize(
    ("name", "digest", "reason"),
    [
        ("tiny", "f" * 64, "is not in the store: stage it first"),
        ("tiny", "../../etc", "is not a bundle digest"),
        ("../tiny", None, "is not a model name"),
        ("other", None, "is a bundle of 'tiny', not 'other'"),
    ],
)
def test_impossible_activations_are_refused(
    store: Store, loader: FakeLoader, name: str, digest: str | None, reason: str
) -> None:
    activated(store, ONE)
    before = store.active()
    outcome = store.activate(name, store.stage(TWO) if digest is None else digest, loader)
    assert isinstance(outcome, Refused)
    assert reason in outcome.reason
    assert store.active() == before
    assert loader.events == []


@pytest.mark.parametrize(
    "loader",
    [
        FakeLoader(refuse="golden answer 3 differs"),
        FakeLoader(error=CapacityError("golden answer 3 differs", retry_after_s=1)),
        FakeLoader(error=OSError("golden answer 3 differs")),
    ],
    ids=["refused", "edge error", "os error"],
)
def test_what_the_engine_refuses_is_not_activated(store: Store, loader: FakeLoader) -> None:
    activated(store, ONE)
    before = store.active()
    assert store.activate("tiny", store.stage(TWO), loader) == Refused("golden answer 3 differs")
    assert store.active() == before


def test_a_damaged_bundle_is_not_loaded(store: Store, files: Disk, loader: FakeLoader) -> None:
    activated(store, ONE)
    two = store.stage(TWO)
    overwrite(files, store.directory(two) / "tokenizer.json", b"[]")
    outcome = store.activate("tiny", two, loader)
    assert isinstance(outcome, Refused)
    assert "tokenizer.json" in outcome.reason
    assert loader.events == []


def test_a_bundle_under_a_wrong_digest_is_refused(store: Store, files: Disk) -> None:
    one = store.stage(ONE)
    files.rename(store.directory(one), store.directory("f" * 64))
    with pytest.raises(BundleError, match="manifest of another bundle"):
        store.verify("f" * 64)


@pytest.mark.parametrize(
    ("code", "family"), [(errno.ENOSPC, CapacityError), (errno.EIO, EngineError)]
)
def test_a_pointer_that_cannot_be_written_lets_go_of_the_new_bundle(
    store: Store, files: Disk, loader: FakeLoader, code: int, family: type[Exception]
) -> None:
    activated(store, ONE)
    before = store.active()
    two = store.stage(TWO)
    files.fail_method, files.code = "create", code
    with pytest.raises(family):
        store.activate("tiny", two, loader)
    assert loader.events == ["load 2", "abort"]
    assert store.active() == before


def test_there_is_no_way_back_from_the_first_bundle(store: Store, loader: FakeLoader) -> None:
    assert store.revert("tiny", loader) == Refused("tiny: has no previous bundle to go back to")
    activated(store, ONE)
    assert store.revert("tiny", loader) == Refused("tiny: has no previous bundle to go back to")


def test_reverting_to_a_damaged_bundle_is_refused(
    store: Store, files: Disk, loader: FakeLoader
) -> None:
    one, two = activated(store, ONE), activated(store, TWO)
    overwrite(files, store.directory(one) / "tokenizer.json", b"[]")
    assert isinstance(store.revert("tiny", loader), Refused)
    assert store.active()["tiny"].bundle_digest == two


def test_garbage_collection_keeps_active_previous_and_named(store: Store, files: Disk) -> None:
    sources = [Path(f"/media/n{number}") for number in range(3)]
    for number, source in enumerate(sources):
        write_tiny_bundle(source, files=files, version=f"n{number}")
    old, kept, loose = (activated(store, source) for source in sources)
    one, two = activated(store, ONE), activated(store, TWO)
    assert store.garbage_collect(keep=[kept]) == tuple(sorted((old, loose)))
    assert store.digests() == tuple(sorted((kept, one, two)))
    assert store.garbage_collect(keep=[kept]) == ()
    assert files.listdir(ROOT / "staging") == []


def test_garbage_collection_stops_at_a_pointer_it_cannot_read(store: Store, files: Disk) -> None:
    one = activated(store, ONE)
    overwrite(files, ROOT / "active" / "tiny.json", b"{")
    with pytest.raises(BundleError, match=r"active/tiny\.json: is not JSON"):
        store.garbage_collect()
    assert store.digests() == (one,)
    outcome = store.activate("tiny", one, FakeLoader())
    assert isinstance(outcome, Refused)
    assert "active/tiny.json" in outcome.reason


class TestRecovery:
    """What opening a store does about what it finds."""

    @pytest.fixture
    def two_of(self, files: Disk) -> tuple[str, str]:
        with Store.open(ROOT, files=files) as store:
            return activated(store, ONE), activated(store, TWO)

    def test_nothing_to_do_is_said_too(self, files: Disk, two_of: tuple[str, str]) -> None:
        with Store.open(ROOT, files=files) as store:
            assert [(e.name, e.action, e.reason) for e in store.recovered] == [
                ("tiny", RecoveryAction.KEPT, "")
            ]
            assert store.active()["tiny"].bundle_digest == two_of[1]

    @pytest.mark.parametrize("how", ["missing", "flipped", "half"])
    def test_a_bad_active_bundle_falls_back(
        self, files: Disk, two_of: tuple[str, str], how: str
    ) -> None:
        directory = ROOT / "bundles" / two_of[1]
        if how == "missing":
            files.rename(directory, Path("/gone"))
        elif how == "flipped":
            overwrite(files, directory / "tokenizer.json", b"[]")
        else:
            files.unlink(directory / "manifest.json")
        with Store.open(ROOT, files=files) as store:
            (entry,) = store.recovered
            assert entry.action is RecoveryAction.FELL_BACK
            assert entry.reason
            pointer = store.active()["tiny"]
            assert (pointer.bundle_digest, pointer.previous) == (two_of[0], None)
            assert pointer.sequence == 3
        with Store.open(ROOT, files=files) as store:
            assert store.recovered[0].action is RecoveryAction.KEPT

    def test_without_a_good_bundle_the_name_is_not_active(
        self, files: Disk, two_of: tuple[str, str]
    ) -> None:
        for digest in two_of:
            files.unlink(ROOT / "bundles" / digest / "tokenizer.json")
        with Store.open(ROOT, files=files) as store:
            (entry,) = store.recovered
            assert entry.action is RecoveryAction.LOST
            assert "tokenizer.json: is listed" in entry.reason
            assert "and the previous bundle: tokenizer.json" in entry.reason
            assert store.active() == {}
            assert store.stage(ONE) == two_of[0]
            assert isinstance(store.activate("tiny", two_of[0], FakeLoader()), Committed)

    @pytest.mark.parametrize("data", [b"", b"{", b"{}"])
    def test_an_unreadable_pointer_is_lost_and_said(
        self, files: Disk, two_of: tuple[str, str], data: bytes
    ) -> None:
        overwrite(files, ROOT / "active" / "tiny.json", data)
        with Store.open(ROOT, files=files) as store:
            assert [entry.action for entry in store.recovered] == [RecoveryAction.LOST]
            assert store.digests() == tuple(sorted(two_of))

    def test_a_pointer_under_another_name_is_lost(
        self, files: Disk, two_of: tuple[str, str]
    ) -> None:
        files.rename(ROOT / "active" / "tiny.json", ROOT / "active" / "other.json")
        with Store.open(ROOT, files=files) as store:
            assert [entry.reason for entry in store.recovered] == [
                "active/other.json: is the pointer of 'tiny'"
            ]

    def test_a_bundle_of_another_name_is_not_good(
        self, files: Disk, two_of: tuple[str, str]
    ) -> None:
        path = ROOT / "active" / "tiny.json"
        data = files.read(path, 9999).replace(b'"tiny"', b'"other"')
        files.unlink(path)
        files.create(ROOT / "active" / "other.json")
        files.append(ROOT / "active" / "other.json", data)
        with Store.open(ROOT, files=files) as store:
            assert store.recovered[0].action is RecoveryAction.LOST
            assert "not 'other'" in store.recovered[0].reason

    def test_half_done_work_is_cleared(self, files: Disk, two_of: tuple[str, str]) -> None:
        for path in (ROOT / "active" / "tiny.json.tmp", ROOT / "staging" / "x"):
            files.create(path)
        files.mkdir(ROOT / "staging" / "d")
        files.create(ROOT / "staging" / "d" / "y")
        with Store.open(ROOT, files=files) as store:
            assert files.listdir(ROOT / "staging") == []
            assert files.listdir(ROOT / "active") == ["tiny.json"]
            assert store.recover() == store.recovered


def test_a_second_process_is_turned_away(store: Store, files: Disk) -> None:
    with (
        pytest.raises(ConfigError, match="in use by another process"),
        Store.open(ROOT, files=files),
    ):
        pass
    assert store.digests() == ()


def test_a_root_that_cannot_be_used_is_a_configuration_error(files: Disk) -> None:
    with (
        pytest.raises(ConfigError, match="cannot be used"),
        Store.open(ONE / "tokenizer.json", files=files),
    ):
        pass


def test_an_engine_bug_is_not_hidden(store: Store, files: Disk) -> None:
    one = store.stage(ONE)

    def broken(directory: Path, manifest: Manifest) -> NoReturn:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.activate("tiny", one, broken)
    assert store.active() == {}
