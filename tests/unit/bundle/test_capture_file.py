"""Segments of captured answers: what is read back is what was written, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle.capture_file import (
    HEADER_BYTES,
    LENGTH_BYTES,
    SegmentWriter,
    begun_us,
    new_key,
    read_folder,
    read_key,
    read_segment,
    segment_name,
)
from edge_runtime.errors import BundleError, ConfigError

KEY = bytes(range(32))
RECORDS: list[dict[str, Any]] = [{"answer": "é", "n": 1}, {"messages": [{"x": None}]}, {}]


def segment(records: list[dict[str, Any]], key: bytes = KEY) -> bytes:
    writer = SegmentWriter(key)
    return writer.header + b"".join(writer.seal(one) for one in records)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / segment_name(1_000_000, b"\1" * 16)


def test_records_come_back_in_order(path: Path) -> None:
    data = segment(RECORDS)
    path.write_bytes(data)
    assert list(read_segment(path, KEY)) == RECORDS
    assert b"answer" not in data
    assert KEY not in data


def test_two_segments_share_nothing_but_the_key(path: Path) -> None:
    first, second = segment(RECORDS), segment(RECORDS)
    assert first[HEADER_BYTES:] != second[HEADER_BYTES:]
    path.write_bytes(first[:HEADER_BYTES] + second[HEADER_BYTES:])
    with pytest.raises(BundleError, match="record 0 was altered"):
        list(read_segment(path, KEY))


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_can_be_changed_unseen(tmp_path_factory: Any, at: int, bit: int) -> None:
    data = bytearray(segment(RECORDS))
    data[at % len(data)] ^= 1 << bit
    path = tmp_path_factory.mktemp("s") / "one.capture"
    path.write_bytes(data)
    found = []
    try:
        for record in read_segment(path, KEY):
            found.append(record)  # noqa: PERF402  # what was read before the error counts
    except BundleError:
        pass
    else:
        # A length that grew past the end looks like a record that was never finished.
        assert len(found) < len(RECORDS)
    assert found == RECORDS[: len(found)]


def test_a_segment_may_end_anywhere_but_not_lose_its_middle(path: Path) -> None:
    data = segment(RECORDS)
    counts = []
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        found = list(read_segment(path, KEY))
        assert found == RECORDS[: len(found)]
        counts.append(len(found))
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 3)
    first = int.from_bytes(data[HEADER_BYTES : HEADER_BYTES + LENGTH_BYTES], "big")
    after = HEADER_BYTES + LENGTH_BYTES + first
    path.write_bytes(data[:HEADER_BYTES] + data[after:])
    with pytest.raises(BundleError, match="record 0 was altered"):
        list(read_segment(path, KEY))


def test_who_asks_for_a_whole_segment_is_told_where_it_ends(path: Path) -> None:
    data = segment(RECORDS)
    path.write_bytes(data)
    assert list(read_segment(path, KEY, whole=True)) == RECORDS
    found = []
    for cut, why in ((1, "within record 2; the 2 before are whole"), (len(data) - 3, "its header")):
        path.write_bytes(data[:-cut])
        with pytest.raises(BundleError, match=why):
            found += list(read_segment(path, KEY, whole=True))
    path.write_bytes(data[:-1])
    records = read_segment(path, KEY, whole=True)
    assert [next(records), next(records)] == RECORDS[:2]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"something else entirely, and long enough", "no segment"),
        (b"something", "no segment"),
        (segment(RECORDS, bytes(32)), "another key"),
        (segment([]) + b"\xff\xff\xff\xff", "impossible length"),
        (segment([]) + b"\0\0\0\1x", "impossible length"),
    ],
    ids=["other text", "too short", "other key", "length too large", "length too small"],
)
def test_what_is_no_segment_of_ours_is_refused(path: Path, data: bytes, why: str) -> None:
    path.write_bytes(data)
    with pytest.raises(BundleError, match=why):
        list(read_segment(path, KEY))


def test_a_record_too_large_is_not_written() -> None:
    with pytest.raises(ValueError, match="larger than"):
        SegmentWriter(KEY).seal({"answer": "x" * (16 * 1024 * 1024)})


def test_a_key_file_holds_one_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(new_key())
    assert len(read_key(file)) == 32
    for wrong in ("", "zz" * 32, "00" * 31, "00" * 33, "00" * 100):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="64 hex digits"):
            read_key(file)
    with pytest.raises(ConfigError, match="name the file"):
        read_key(tmp_path / "gone")


def test_a_folder_is_read_oldest_first_and_only_its_segments(tmp_path: Path) -> None:
    for at_us in (3_000_000, 1_000_000, 2_000_000):
        writer = SegmentWriter(KEY)
        name = segment_name(at_us, writer.segment_id)
        assert begun_us(Path(name)) == at_us
        (tmp_path / name).write_bytes(writer.header + writer.seal({"at": at_us}))
    (tmp_path / "notes.txt").write_text("not a segment")
    found = [one["at"] for one in read_folder(tmp_path, KEY)]
    assert found == [1_000_000, 2_000_000, 3_000_000]
    assert begun_us(Path("notes.txt")) is None
    with pytest.raises(ConfigError, match="is no folder"):
        list(read_folder(tmp_path / "gone", KEY))
