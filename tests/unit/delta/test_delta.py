"""Deltas: made, applied, damaged; and the way a box takes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.delta import (
    MAGIC,
    SEGMENT_BYTES,
    Header,
    Segment,
    Side,
    apply_delta,
    combine,
    difference,
    header_length,
    parse_header,
)
from edge_runtime.errors import BundleError
from fleet.delta.segments import Tensor, aligned, segments, unrelated

BASE, DELTA = Path("/base"), Path("/delta")


@given(
    op=st.sampled_from(["new", "same", "sub", "xor"]),
    item=st.sampled_from([1, 2, 4, 8]),
    words=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_combining_undoes_the_difference(op: str, item: int, words: int, seed: int) -> None:
    rng = random.Random(seed)
    length = 8 * words
    old, new = rng.randbytes(length), rng.randbytes(length)
    if op == "same":
        new = old
    segment = Segment.model_validate({"op": op, "length": length, "item": item})
    assert combine(segment, old, difference(segment, old, new)) == new


def test_int8_weights_that_moved_a_little_leave_small_numbers() -> None:
    rng = np.random.default_rng(1)
    old = rng.integers(-128, 128, 4096, dtype=np.int8)
    new = old + rng.integers(-1, 2, 4096, dtype=np.int8)
    change = difference(Segment(op="sub", length=4096), old.tobytes(), new.tobytes())
    assert set(change) == {0, 1, 255}


def test_floats_are_sent_plane_by_plane() -> None:
    old, new = np.array([1.0, 2.0], "<f4"), np.array([1.0000001, 2.0000002], "<f4")
    change = difference(Segment(op="xor", length=8, item=4), old.tobytes(), new.tobytes())
    assert change[2:] == bytes(6)  # only the lowest bytes differ, and those come first
    assert change[:2] != bytes(2)


# Which bytes are compared


def tensor(name: str, offset: int, length: int, *, is_int8: bool = True) -> Tensor:
    return Tensor(name, offset, length, 1 if is_int8 else 4, is_int8)


def test_a_tensor_meets_its_namesake_wherever_it_lies() -> None:
    old = [tensor("w", 100, 10), tensor("scale", 0, 8, is_int8=False)]
    new = [tensor("scale", 16, 8, is_int8=False), tensor("w", 0, 10), tensor("more", 24, 6)]
    found = [(at, item.op, item.length, item.offset) for at, item in segments(old, new, 32)]
    assert found == [
        (0, "sub", 10, 100),
        (10, "new", 6, 0),
        (16, "xor", 8, 0),
        (24, "new", 6, 0),
        (30, "new", 2, 0),
    ]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), max_size=8))
def test_segments_cover_the_file_once(places: list[tuple[int, int]]) -> None:
    tensors = [tensor(f"t{number}", at, size) for number, (at, size) in enumerate(places)]
    at = 0
    for start, segment in segments(tensors, tensors, 60):
        assert start == at
        at += segment.length
    assert at == 60


def test_large_tensors_are_cut_into_segments_of_one_mebibyte() -> None:
    size = 2 * SEGMENT_BYTES + 4
    one = [tensor("w", 0, size, is_int8=False)]
    assert [item.length for _, item in segments(one, one, size)] == [
        SEGMENT_BYTES,
        SEGMENT_BYTES,
        4,
    ]
    assert sum(item.length for _, item in aligned(size)) == size
    assert {item.op for _, item in unrelated(5)} == {"new"}


# Hostile deltas


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def header_for(base: bytes, result: bytes, *parts: Segment) -> Header:
    return Header(
        base=Side(sha256=sha(base), size=len(base)),
        result=Side(sha256=sha(result), size=len(result)),
        segments=parts,
    )


def files_with(delta: bytes, base: bytes = b"old bytes!") -> CrashFiles:
    files = CrashFiles()
    for path, data in ((BASE, base), (DELTA, delta)):
        files.create(path)
        files.append(path, data)
    return files


GOOD_HEADER = header_for(b"old bytes!", b"new", Segment(op="new", length=3))
GOOD = GOOD_HEADER.to_bytes() + zstandard.compress(b"new")


def applied(delta: bytes) -> bytes:
    return b"".join(apply_delta(files_with(delta), DELTA, BASE, base_sha256=sha(b"old bytes!")))


def test_a_good_delta_gives_the_result() -> None:
    assert applied(GOOD) == b"new"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"X" + data[1:], "does not begin like a delta"),
        (lambda data: data[:5], "does not begin like a delta"),
        (lambda data: data[:40], "ends inside its header"),
        (lambda data: MAGIC + b"\xff\xff\xff\xff" + data[15:], "does not begin like a delta"),
        (lambda data: data.replace(b'"new"', b'"run"'), "its header is wrong"),
        (lambda data: data[:-6], r"cannot be unpacked|less than"),
        (
            lambda data: GOOD_HEADER.to_bytes() + zstandard.compress(b"newer"),
            "holds more than its segments",
        ),
        (
            lambda data: GOOD_HEADER.to_bytes() + zstandard.compress(b"ne"),
            "holds less than its segments",
        ),
        (lambda data: GOOD_HEADER.to_bytes() + b"no frame", "cannot be unpacked"),
    ],
)
def test_a_damaged_delta_is_refused(change: Callable[[bytes], bytes], reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        applied(change(GOOD))


def test_a_delta_for_another_base_is_refused() -> None:
    with pytest.raises(BundleError, match="starts from"):
        list(apply_delta(files_with(GOOD), DELTA, BASE, base_sha256="0" * 64))


def test_a_frame_that_wants_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = frame.compress(bytes(100)) + frame.flush()
    with pytest.raises(BundleError, match="cannot be unpacked"):
        applied(GOOD_HEADER.to_bytes() + data)


@pytest.mark.parametrize(
    "parts",
    [
        (Segment(op="new", length=2),),
        (Segment(op="new", length=4),),
        (Segment(op="same", length=3, offset=8),),
        (Segment(op="sub", length=3, offset=1 << 60),),
    ],
)
def test_segments_that_lie_about_sizes_are_refused(parts: tuple[Segment, ...]) -> None:
    with pytest.raises(ValueError, match=r"add up|past the end"):
        header_for(b"old bytes!", b"new", *parts)


@pytest.mark.parametrize("length", [0, SEGMENT_BYTES + 1])
def test_segments_are_bounded(length: int) -> None:
    with pytest.raises(ValueError, match="length"):
        Segment(op="new", length=length)


def test_headers_are_read_back() -> None:
    data = GOOD_HEADER.to_bytes()
    assert header_length(data[:15]) == len(data)
    assert parse_header(data) == GOOD_HEADER
