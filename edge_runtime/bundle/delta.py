"""Tensor deltas: the format of a blob that makes one file out of another.

The blob: `EDGEDELTA1`, a newline, the header's length in 4 bytes (big endian), the header as
canonical JSON, one zstd frame. The header names base and result by sha256 and size, and lists
segments in the order of the result, each of at most 1 MiB:

- `new`: bytes of the stream (what the frame unpacks to).
- `same`: bytes of the base from `offset`; the stream has none of them.
- `sub`: base + stream, byte by byte, modulo 256. For INT8 weights.
- `xor`: base ^ stream; the stream has the first bytes of all `item`-byte numbers, then the second
  ones, and so on. For floats, whose leading bytes hardly change.

Rules
- Nothing of a delta is trusted: what comes out is held against the signed hashes of the result.
- Applying it needs the memory of one segment and the frame's window, at most `WINDOW_BYTES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Literal, Self, cast

import numpy as np
import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.files import Files
from edge_runtime.bundle.manifest import BLOCK_BYTES, Sha256
from edge_runtime.errors import BundleError

MAGIC = b"EDGEDELTA1\n"
MAX_HEADER_BYTES = 8 * 1024 * 1024
MAX_SEGMENTS = 1 << 17
SEGMENT_BYTES = 1024 * 1024
WINDOW_LOG = 23
WINDOW_BYTES = 1 << WINDOW_LOG

_Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Operation = Literal["new", "same", "sub", "xor"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Segment(_Section):
    """`length` bytes of the result and how they come about; see the module."""

    op: Operation
    length: int = Field(ge=1, le=SEGMENT_BYTES)
    offset: int = Field(default=0, ge=0)
    item: Literal[1, 2, 4, 8] = 1

    @model_validator(mode="after")
    def _whole_items(self) -> Self:
        if self.op == "xor" and self.length % self.item:
            raise ValueError(f"{self.length} bytes are no whole {self.item}-byte numbers")
        return self


class Side(_Section):
    """One of the two files."""

    sha256: Sha256
    size: int = Field(ge=0)


class Header(_Section):
    """What a delta does. Its segments cover the result and stay inside the base."""

    base: Side
    result: Side
    segments: Annotated[tuple[Segment, ...], Field(max_length=MAX_SEGMENTS)]

    @model_validator(mode="after")
    def _covers_the_result(self) -> Self:
        if sum(item.length for item in self.segments) != self.result.size:
            raise ValueError("the segments do not add up to the result")
        for item in self.segments:
            if item.op != "new" and item.offset + item.length > self.base.size:
                raise ValueError("a segment reaches past the end of the base")
        return self

    def to_bytes(self) -> bytes:
        """Everything of the blob before the frame."""
        data = canonical_bytes(self.model_dump(mode="json"))
        assert len(data) <= MAX_HEADER_BYTES, "segments are few enough"
        return MAGIC + len(data).to_bytes(4, "big") + data


def header_length(start: bytes) -> int:
    """Length of everything before the frame, from the first 15 bytes. Raises `BundleError`."""
    prefix = len(MAGIC) + 4
    size = int.from_bytes(start[len(MAGIC) : prefix], "big")
    if start[: len(MAGIC)] != MAGIC or len(start) < prefix or size > MAX_HEADER_BYTES:
        raise BundleError("delta", "does not begin like a delta of this version")
    return prefix + size


def parse_header(data: bytes) -> Header:
    """The header of everything before the frame. Raises `BundleError`."""
    try:
        return Header.model_validate_json(data[len(MAGIC) + 4 :], strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise BundleError("delta", f"its header is wrong: {fault['msg']}") from error


def combine(segment: Segment, base: bytes, stream: bytes) -> bytes:
    """The bytes of the result, from those of the base and of the stream."""
    if segment.op == "new":
        return stream
    if segment.op == "same":
        return base
    old = np.frombuffer(base, dtype=np.uint8)
    change = np.frombuffer(stream, dtype=np.uint8)
    if segment.op == "sub":
        return (old + change).tobytes()
    return (old ^ _joined(change, segment.item)).tobytes()


def difference(segment: Segment, base: bytes, result: bytes) -> bytes:
    """The bytes of the stream that `combine` makes `result` of; empty for `same`."""
    if segment.op == "new":
        return result
    if segment.op == "same":
        return b""
    old, new = np.frombuffer(base, dtype=np.uint8), np.frombuffer(result, dtype=np.uint8)
    if segment.op == "sub":
        return (new - old).tobytes()
    return _planes(old ^ new, segment.item).tobytes()


def _planes(data: _Bytes, item: int) -> _Bytes:
    return np.ascontiguousarray(data.reshape(-1, item).T).reshape(-1)


def _joined(data: _Bytes, item: int) -> _Bytes:
    return np.ascontiguousarray(data.reshape(item, -1).T).reshape(-1)


def apply_delta(files: Files, delta: Path, base: Path, *, base_sha256: str) -> Iterator[bytes]:
    """The result in blocks of 2 MiB, the last one shorter.

    `base_sha256` is what the signed list says of the base. Raises `BundleError` when the delta is
    for another base, damaged, or promises what it does not hold; some blocks may have come by then.
    """
    header, skip = _read_header(files, delta)
    if header.base.sha256 != base_sha256:
        raise BundleError("delta", f"starts from {header.base.sha256[:12]}, not {base_sha256[:12]}")
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
    buffer = bytearray()
    try:
        with decompressor.stream_reader(cast("IO[bytes]", _Rest(files, delta, skip))) as stream:
            for segment in header.segments:
                wanted = 0 if segment.op == "same" else segment.length
                change = _read_all(stream, wanted)
                old = b""
                if segment.op != "new":
                    old = files.read_at(base, segment.offset, segment.length)
                    if len(old) != segment.length:
                        raise BundleError("delta", "the base is shorter than it was signed")
                buffer += combine(segment, old, change)
                while len(buffer) >= BLOCK_BYTES:
                    yield bytes(buffer[:BLOCK_BYTES])
                    del buffer[:BLOCK_BYTES]
            if stream.read(1):
                raise BundleError("delta", "holds more than its segments")
    except zstandard.ZstdError as error:
        raise BundleError("delta", f"cannot be unpacked: {error}") from error
    if buffer:
        yield bytes(buffer)


def _read_header(files: Files, delta: Path) -> tuple[Header, int]:
    length = header_length(files.read(delta, len(MAGIC) + 4))
    data = files.read(delta, length)
    if len(data) != length:
        raise BundleError("delta", "ends inside its header")
    return parse_header(data), length


def _read_all(stream: zstandard.ZstdDecompressionReader, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            raise BundleError("delta", "holds less than its segments")
        data += piece
    return bytes(data)


class _Rest:
    """A file from an offset on, as zstandard reads it."""

    def __init__(self, files: Files, path: Path, offset: int) -> None:
        self._files = files
        self._path = path
        self._at = offset

    def read(self, size: int = -1) -> bytes:
        data = self._files.read_at(self._path, self._at, 1024 * 1024 if size < 0 else size)
        self._at += len(data)
        return data
