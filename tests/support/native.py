"""Driving the native library's plain C entries from tests, and the same arithmetic in numpy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]

SETS = ("avx512vnni", "avxvnni", "avx2")
STEP = np.float32(1) / np.float32(127)


class _Recipe(ctypes.Structure):
    """`edge_recipe` of linear.h."""

    _fields_ = (
        ("k", ctypes.c_size_t),
        ("n", ctypes.c_size_t),
        ("parts", ctypes.c_size_t),
        ("transposed", ctypes.c_int),
        ("w", ctypes.c_void_p * 2),
        ("scale", ctypes.c_void_p * 2),
        ("bias", ctypes.c_void_p * 2),
    )


class Native:
    """One loaded library."""

    def __init__(self, path: Path) -> None:
        self._lib = ctypes.CDLL(str(path))
        self._lib.edge_layer_new.restype = ctypes.c_void_p
        self._lib.edge_layer_new.argtypes = [ctypes.c_char_p, ctypes.POINTER(_Recipe)]
        self._lib.edge_layer_free.argtypes = [ctypes.c_void_p]
        self._lib.edge_layer_run.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self._lib.edge_packed_matrices.restype = ctypes.c_size_t

    def held(self) -> int:
        """Packed matrices in memory."""
        return int(self._lib.edge_packed_matrices())

    def has(self, name: str) -> bool:
        """Whether the set runs on this processor."""
        weights, scale = np.zeros((1, 1), np.int8), np.ones(1, np.float32)
        with self.layer([weights], [scale], name=name) as layer:
            return layer is not None

    @contextmanager
    def layer(
        self,
        weights: Sequence[Int8s],
        scales: Sequence[Floats],
        biases: Sequence[Floats] = (),
        *,
        transposed: bool = False,
        name: str | None = None,
    ) -> Iterator[int | None]:
        """A layer's handle, or None where the library refuses. Weights [K, N] each."""
        k, n = weights[0].shape[::-1] if transposed else weights[0].shape
        kept = [np.ascontiguousarray(array) for array in (*weights, *scales, *biases)]
        spots = [array.ctypes.data for array in kept] + [0, 0]
        parts = len(weights)
        pair = ctypes.c_void_p * 2
        recipe = _Recipe(
            k,
            n,
            parts,
            int(transposed),
            pair(*spots[:parts]),
            pair(*spots[parts : 2 * parts]),
            pair(*spots[2 * parts : 3 * parts]) if biases else pair(0, 0),
        )
        wanted = None if name is None else name.encode()
        handle = self._lib.edge_layer_new(wanted, ctypes.byref(recipe))
        try:
            yield handle
        finally:
            if handle is not None:
                self._lib.edge_layer_free(handle)

    def run(self, layer: int | None, x: Floats, n: int) -> Floats:
        """Results [m, n] of rows x [m, k]."""
        out = np.full((len(x), n), np.nan, np.float32)
        rows = np.ascontiguousarray(x)
        assert self._lib.edge_layer_run(layer, rows.ctypes.data, len(x), out.ctypes.data, None) == 0
        return out

    def sums(self, layer: int | None, x: Floats, n: int) -> Int32s:
        """Exact integer sums [m, n] of the quantised rows of x."""
        out = np.full((len(x), n), -1, np.int32)
        rows = np.ascontiguousarray(x)
        assert self._lib.edge_layer_run(layer, rows.ctypes.data, len(x), None, out.ctypes.data) == 0
        return out


def quantized(x: Floats) -> tuple[Int32s, Floats]:
    """Rows as whole numbers in [-127, 127], and their peaks [m, 1]."""
    peak = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
    safe = np.where(peak > 0, peak, np.float32(1))
    return np.rint(x / safe / STEP).astype(np.int32), peak


def expected(x: Floats, weights: Int8s, scale: Floats, bias: Floats | None = None) -> Floats:
    """The layer in numpy, float32 steps in the order that kernels.h states."""
    rows, peak = quantized(x)
    sums = rows @ weights.astype(np.int32)
    y = sums.astype(np.float32) * (STEP * scale) * peak
    return y if bias is None else y + bias
