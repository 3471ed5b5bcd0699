"""Applying a tensor delta on the box, in bounded memory. The format is `bundle.delta`'s.

Nothing here is trusted: the caller holds every block that comes out against its signed hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import zstandard

from edge_runtime.bundle.delta import (
    MAGIC,
    WINDOW_BYTES,
    Header,
    combine,
    header_length,
    parse_header,
)
from edge_runtime.bundle.files import Files
from edge_runtime.bundle.manifest import BLOCK_BYTES
from edge_runtime.errors import BundleError


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
