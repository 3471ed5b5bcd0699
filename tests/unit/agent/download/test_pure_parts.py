"""Pace, next blocks, file plans and source accounts: values in, decisions out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.agent.contract import NoDeltaError
from edge_runtime.agent.download.accounts import AccountLimits, Accounts, Ask, Fault, Wait
from edge_runtime.agent.download.clock import ManualClock
from edge_runtime.agent.download.plan import BlobSpec, Way, next_blocks, plan_files
from edge_runtime.agent.download.rate import Pacer, TokenBucket
from edge_runtime.bundle.manifest import BLOCK_BYTES, FileEntry
from edge_runtime.bundle.targets import DeltaFile
from edge_runtime.errors import BundleError, TransportError
from tests.support.downloads import Shelf

# Pace


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=50), st.integers(100, 10_000))
def test_no_more_than_rate_and_burst_pass_in_any_time(sizes: list[int], rate: int) -> None:
    bucket = TokenBucket(rate, burst_bytes=5000)
    now_s, passed = 0.0, 0
    for size in sizes:
        assert passed <= 5000 + rate * now_s + 1
        passed += size
        now_s += bucket.take(size, now_s)
    assert passed <= 5000 + rate * now_s + 1


def test_a_clock_that_goes_back_earns_nothing() -> None:
    bucket = TokenBucket(100, burst_bytes=0)
    assert bucket.take(100, 10.0) == 1.0
    assert bucket.take(0, 5.0) == 1.0
    assert bucket.take(0, 11.0) == 0.0


async def test_the_pacer_waits_as_long_as_the_bucket_says() -> None:
    clock = ManualClock()
    pacer = Pacer(TokenBucket(1000, burst_bytes=0), clock)
    for _ in range(10):
        await pacer.took(500)
    assert clock.now_s() == pytest.approx(5.0)


# Blocks


@pytest.mark.parametrize(
    ("total", "committed", "busy", "window", "blocks"),
    [
        (10, 0, (), 3, (0, 1, 2)),
        (10, 4, (5,), 3, (4, 6)),
        (10, 9, (), 3, (9,)),
        (10, 10, (), 3, ()),
        (0, 0, (), 3, ()),
        (3, 0, (0, 1, 2), 8, ()),
    ],
)
def test_next_blocks_are_those_of_the_window_nobody_fetches(
    total: int, committed: int, busy: tuple[int, ...], window: int, blocks: tuple[int, ...]
) -> None:
    assert next_blocks(total, committed, busy, window) == blocks


def test_spans_cover_a_blob_exactly() -> None:
    spec = BlobSpec("0" * 64, 2 * BLOCK_BYTES + 5, ("1" * 64,) * 3)
    assert [spec.span(index) for index in range(3)] == [
        (0, BLOCK_BYTES),
        (BLOCK_BYTES, BLOCK_BYTES),
        (2 * BLOCK_BYTES, 5),
    ]
    assert spec.bytes_of(3) == spec.size


# Files


def delta_of(path: str, size: int) -> DeltaFile:
    entry = FileEntry(path=path, size=size, sha256="d" * 64, blocks=("d" * 64,))
    return DeltaFile(base_path=path, base_sha256="b" * 64, delta=entry)


def test_files_that_are_here_cost_nothing_and_deltas_what_they_weigh() -> None:
    shelf = Shelf()
    shelf.add(1, b"w" * 100)
    manifest = shelf.manifests[1]
    here = {manifest.entry("tokenizer.json").sha256}
    deltas = {"int8/model.onnx_data": delta_of("int8/model.onnx_data", 20)}
    plans = plan_files(manifest, here, deltas, full_allowed=True)
    assert {plan.entry.path: (plan.way, plan.cost_bytes) for plan in plans} == {
        "int8/model.onnx": (Way.FULL, 5),
        "int8/model.onnx_data": (Way.DELTA, 20),
        "tokenizer.json": (Way.HERE, 0),
    }


def test_without_leave_a_file_without_delta_stops_everything() -> None:
    shelf = Shelf()
    shelf.add(1, b"w" * 100)
    manifest = shelf.manifests[1]
    with pytest.raises(NoDeltaError, match="a full download is not allowed"):
        plan_files(manifest, (), {}, full_allowed=False)
    bigger = {entry.path: delta_of(entry.path, 999) for entry in manifest.files}
    plans = plan_files(manifest, (), bigger, full_allowed=False)
    assert {plan.way for plan in plans} == {Way.DELTA}
    assert {plan.way for plan in plan_files(manifest, (), bigger, full_allowed=True)} == {Way.FULL}


# Accounts

BLOB = "e" * 64


def test_the_first_source_is_asked_until_it_fails_and_again_after_its_rest() -> None:
    accounts = Accounts(["near", "far"], AccountLimits(first_rest_s=1.0))
    assert accounts.choose(BLOB, 0.0) == Ask(0)
    accounts.note_fault(0, BLOB, Fault.FAILED, "broke off", 0.0)
    assert accounts.choose(BLOB, 0.0) == Ask(1)
    accounts.note_fault(1, BLOB, Fault.FAILED, "broke off", 0.5)
    accounts.note_fault(1, BLOB, Fault.FAILED, "broke off", 0.5)
    assert accounts.choose(BLOB, 0.9) == Wait(1.0)
    assert accounts.choose(BLOB, 1.0) == Ask(0)
    accounts.note_block(0, 10)
    assert accounts.all[0].failures_in_row == 0


def test_rests_double_up_to_a_bound() -> None:
    limits = AccountLimits(max_failures=20, first_rest_s=1.0, longest_rest_s=5.0)
    accounts = Accounts(["a"], limits)
    rests = []
    for _ in range(5):
        accounts.note_fault(0, BLOB, Fault.FAILED, "x", 0.0)
        rests.append(accounts.all[0].rests_until_s)
    assert rests == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_source_without_the_blob_is_asked_for_others() -> None:
    accounts = Accounts(["a", "b"], AccountLimits())
    accounts.note_fault(0, BLOB, Fault.MISSING, "does not have it", 0.0)
    assert accounts.choose(BLOB, 0.0) == Ask(1)
    assert accounts.choose("f" * 64, 0.0) == Ask(0)
    accounts.note_fault(1, BLOB, Fault.MISSING, "does not have it", 0.0)
    error = accounts.choose(BLOB, 0.0)
    assert isinstance(error, TransportError)
    assert "a: does not have it; b: does not have it" in str(error)


def test_a_source_that_sends_wrong_bytes_of_a_blob_twice_is_not_asked_for_it() -> None:
    accounts = Accounts(["a"], AccountLimits(max_corrupt=2))
    accounts.note_fault(0, BLOB, Fault.CORRUPT, "sent other bytes", 0.0)
    assert isinstance(accounts.choose(BLOB, 0.0), Wait)
    accounts.note_fault(0, BLOB, Fault.CORRUPT, "sent other bytes", 9.0)
    assert isinstance(accounts.choose(BLOB, 99.0), BundleError)
    assert accounts.choose("f" * 64, 99.0) == Ask(0)  # one damaged blob is not a damaged source


def test_a_source_that_sends_many_wrong_blobs_is_asked_for_nothing() -> None:
    accounts = Accounts(["a"], AccountLimits(max_corrupt_in_all=3))
    for number in range(3):
        accounts.note_fault(0, f"{number:064}", Fault.CORRUPT, "sent other bytes", 0.0)
        accounts.note_block(0, 1)
    assert isinstance(accounts.choose(BLOB, 99.0), TransportError)


def test_no_sources_is_said_so() -> None:
    error = Accounts([], AccountLimits()).choose(BLOB, 0.0)
    assert isinstance(error, TransportError)
    assert "no source was named" in str(error)
