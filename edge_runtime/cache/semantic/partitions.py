"""Which entries of a partition are near a vector: by reading it, or by an index when it is large.

Rules
- A partition of at most `SMALL` entries has no index: reading it costs less than keeping one.
- Every larger one has an index in memory, and a file of it that is written at close. A file is
  used only if it is the one that was saved and holds the very entries of the database.
- While an index is made, lookups see the newest `SMALL` entries only.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.cache.semantic.contract import Vector
from edge_runtime.cache.semantic.index import VectorIndex
from edge_runtime.cache.semantic.tables import EVERY_VECTOR, SOME_VECTORS

SMALL = 128
NEAREST = 8
MANY = 4096  # more removals than this, and making an index anew is no dearer


def pack(vector: Vector) -> bytes:
    """A unit vector as it is kept: float16."""
    return vector.astype(np.float16).tobytes()


def unpack(data: bytes) -> Vector:
    """The vector of `pack`, float32 [width]."""
    return np.frombuffer(data, np.float16).astype(np.float32)


class Partitions:
    """The indexes of one cache. All but `nearest` are called under the cache's write lock."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._indexes: dict[bytes, VectorIndex] = {}

    def open(self, connection: sqlite3.Connection, epoch: int) -> None:
        """Load or make every index that is needed. Costs about 0.5 ms an entry made anew."""
        large = connection.execute(
            "SELECT partition, sha256 FROM partitions WHERE entries > ?", (SMALL,)
        ).fetchall()
        for partition, sha256 in large:
            self._indexes[partition] = self._load(
                connection, partition, sha256, epoch
            ) or self._make(connection, partition, epoch)

    def nearest(
        self, reader: sqlite3.Connection, partition: bytes, epoch: int, vector: Vector
    ) -> list[int]:
        """At most `NEAREST` entries, nearest first; some may be gone already."""
        index = self._indexes.get(partition)
        if index is not None:
            return index.nearest(vector, NEAREST)
        rows = reader.execute(SOME_VECTORS, (partition, epoch, SMALL)).fetchall()
        rows = [row for row in rows if len(row[1]) == 2 * len(vector)]
        if not rows:
            return []
        near = _stack(rows) @ vector
        return [int(rows[at][0]) for at in np.argsort(-near, kind="stable")[:NEAREST]]

    def added(
        self, connection: sqlite3.Connection, partition: bytes, epoch: int, entry: int
    ) -> None:
        """An entry is in the database now."""
        index = self._indexes.get(partition)
        if index is not None:
            (data,) = connection.execute(
                "SELECT vector FROM entries WHERE entry = ?", (entry,)
            ).fetchone()
            index.add(entry, unpack(data))
            return
        row = connection.execute(
            "SELECT entries FROM partitions WHERE partition = ?", (partition,)
        ).fetchone()
        if row is not None and row[0] > SMALL:
            self._indexes[partition] = self._make(connection, partition, epoch)

    def removed(
        self,
        connection: sqlite3.Connection,
        gone: dict[bytes, list[int]],
        epoch: int,
    ) -> None:
        """Entries, by partition, are out of the database now."""
        for partition, entries in gone.items():
            index = self._indexes.get(partition)
            if index is None:
                continue
            if len(entries) >= len(index):
                del self._indexes[partition]
            elif len(entries) > MANY:
                del self._indexes[partition]
                self._indexes[partition] = self._make(connection, partition, epoch)
            else:
                index.remove(entries)

    def forget(self) -> None:
        """No entry is visible any more."""
        self._indexes = {}

    def save(self, connection: sqlite3.Connection) -> None:
        """Write every index beside the database, and remember which file is right."""
        if self._folder is None:
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        if not self._indexes:
            return
        self._folder.mkdir(parents=True, mode=0o700)
        for partition, index in self._indexes.items():
            sha256 = index.save(self._file(partition))
            connection.execute(
                "UPDATE partitions SET sha256 = ? WHERE partition = ?", (sha256, partition)
            )

    def _file(self, partition: bytes) -> Path:
        assert self._folder is not None
        return self._folder / f"{partition.hex()}.usearch"

    def _load(
        self, connection: sqlite3.Connection, partition: bytes, sha256: str, epoch: int
    ) -> VectorIndex | None:
        if self._folder is None or not sha256:
            return None
        first = connection.execute(EVERY_VECTOR, (partition, epoch)).fetchone()
        if first is None:
            return None
        index = VectorIndex.load(self._file(partition), len(first[1]) // 2, sha256)
        if index is None:
            return None
        wanted = {row[0] for row in connection.execute(EVERY_VECTOR, (partition, epoch)).fetchall()}
        return index if index.entries() == wanted else None

    @staticmethod
    def _make(connection: sqlite3.Connection, partition: bytes, epoch: int) -> VectorIndex:
        rows = connection.execute(EVERY_VECTOR, (partition, epoch)).fetchall()
        width = len(rows[0][1]) // 2 if rows else 1
        rows = [row for row in rows if len(row[1]) == 2 * width]
        return VectorIndex.of(width, [row[0] for row in rows], _stack(rows) if rows else _EMPTY)


_EMPTY = np.zeros((0, 1), np.float32)


def _stack(rows: Iterable[tuple[int, bytes]]) -> npt.NDArray[np.float32]:
    return np.stack([np.frombuffer(data, np.float16) for _, data in rows]).astype(np.float32)
