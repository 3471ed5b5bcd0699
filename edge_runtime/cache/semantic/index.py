"""Nearest vectors of one partition: an approximate graph over int8 vectors (usearch).

Rules
- Holds entry numbers and vectors, nothing else. What it finds is looked up and judged by the
  caller, so an entry that is gone already does no harm.
- Never the truth: a file that is missing, damaged or behind is made anew from the database.
- usearch is loaded with the first index, not with this module: where it is loaded before
  onnxruntime, importing onnxruntime ends the process (usearch 2.26, onnxruntime 1.32).
- One lock: a search waits for an addition (a fraction of a millisecond), never for the disk.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from usearch.index import Index

Vectors = npt.NDArray[np.float32]
CONNECTIVITY = 16
EXPANSION_ADD = 64
EXPANSION_SEARCH = 48


class VectorIndex:
    """Entries of one partition by cosine; `width` is the length of a vector."""

    def __init__(self, width: int) -> None:
        from usearch.index import Index  # noqa: PLC0415  # see the module's rules

        self._index: Index = Index(
            ndim=width,
            metric="cos",
            dtype="i8",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        self._lock = threading.Lock()

    @classmethod
    def of(cls, width: int, entries: Sequence[int], vectors: Vectors) -> Self:
        """An index of these entries. Costs about 0.5 ms an entry on one core."""
        index = cls(width)
        if len(entries):
            index._index.add(np.asarray(entries, np.uint64), vectors, threads=1)
        return index

    @classmethod
    def load(cls, path: Path, width: int, sha256: str) -> Self | None:
        """The index of a file, or None when it is not the one that was saved."""
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        index = cls(width)
        index._index.load(data)
        return index

    def save(self, path: Path) -> str:
        """Write the file; the SHA-256 by which `load` knows it."""
        with self._lock:
            saved = self._index.save()
        assert saved is not None  # it is, when no path is given
        data = bytes(saved)
        written = path.with_suffix(".new")
        written.write_bytes(data)
        written.replace(path)
        return hashlib.sha256(data).hexdigest()

    def add(self, entry: int, vector: npt.NDArray[np.float32]) -> None:
        """Add an entry; its number must be new."""
        with self._lock:
            self._index.add(entry, vector, threads=1)

    def remove(self, entries: Iterable[int]) -> None:
        """Take entries out; unknown ones are passed over."""
        with self._lock:
            for entry in entries:
                if self._index.contains(entry):
                    self._index.remove(entry)

    def nearest(self, vector: npt.NDArray[np.float32], count: int) -> list[int]:
        """At most `count` entries, nearest first."""
        with self._lock:
            if not len(self._index):
                return []
            return [int(key) for key in self._index.search(vector, count, threads=1).keys]

    def entries(self) -> frozenset[int]:
        """The entries it holds."""
        with self._lock:
            return frozenset(int(key) for key in np.atleast_1d(self._index.keys[:]))

    def __len__(self) -> int:
        """How many entries it holds."""
        return len(self._index)
