"""Weight matrices read a few rows at a time.

A linear layer's weight is [N, K]: N outputs, K inputs, as checkpoints store it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BLOCK_BYTES = 16 * 1024 * 1024


class Rows(Protocol):
    """A float matrix [rows, cols] that is read in blocks of rows."""

    @property
    def rows(self) -> int:
        """Number of rows (outputs N of a linear layer, entries of an embedding)."""

    @property
    def cols(self) -> int:
        """Number of columns (inputs K of a linear layer, width of an embedding)."""

    def blocks(self) -> Iterator[FloatArray]:
        """Float32 [n, cols] blocks in order; n is chosen so that a block stays near 16 MiB."""


def rows_per_block(cols: int) -> int:
    """Rows of float32 that fit one block; at least one."""
    return max(1, BLOCK_BYTES // (4 * cols))


class ArrayRows:
    """`Rows` over an array in memory: tests, and weights made by training."""

    def __init__(self, array: npt.NDArray[np.floating]) -> None:
        if array.ndim != 2:
            raise ValueError(f"a matrix is needed, got shape {array.shape}")
        self._array = array

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._array.shape[0])

    @property
    def cols(self) -> int:
        """Number of columns."""
        return int(self._array.shape[1])

    def blocks(self) -> Iterator[FloatArray]:
        """Float32 blocks in order."""
        step = rows_per_block(self.cols)
        for start in range(0, self.rows, step):
            yield self._array[start : start + step].astype(np.float32)


class StackedRows:
    """Several matrices of the same width, one below the other: fused projections."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        widths = {part.cols for part in parts}
        if len(widths) != 1:
            raise ValueError(f"fused weights need one width, got {sorted(widths)}")
        self._parts = tuple(parts)

    @property
    def rows(self) -> int:
        """Sum of the parts' rows."""
        return sum(part.rows for part in self._parts)

    @property
    def cols(self) -> int:
        """The parts' common width."""
        return self._parts[0].cols

    def blocks(self) -> Iterator[FloatArray]:
        """Blocks of the first part, then of the next."""
        for part in self._parts:
            yield from part.blocks()
