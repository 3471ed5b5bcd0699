"""Driving the native library's plain C entries from tests, and the same arithmetic in numpy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]

SETS = ("avx512vnni", "avxvnni", "avx2")


class _Recipe(ctypes.Structure):
    """`edge_recipe` of linear.h."""

    _fields_ = (
        ("k", ctypes.c_size_t),
        ("n", ctypes.c_size_t),
        ("parts", ctypes.c_size_t),
        ("transposed", ctypes.c_int),
        ("zero", ctypes.c_int),
        ("levels", ctypes.c_int),
        ("floor", ctypes.c_float),
        ("w", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
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
        with self.layer(weights, scale, name=name) as layer:
            return layer is not None

    @contextmanager
    def layer(
        self,
        weights: Int8s,
        scale: Floats,
        bias: Floats | None = None,
        *,
        gated: bool = False,
        transposed: bool = False,
        zero: int = 128,
        levels: int = 127,
        floor: float = 0.0,
        name: str | None = None,
    ) -> Iterator[int | None]:
        """A layer's handle, or None where the library refuses. Weights [K, N], gated [K, 2N]."""
        k, columns = weights.shape[::-1] if transposed else weights.shape
        parts = 2 if gated else 1
        kept = [np.ascontiguousarray(array) for array in (weights, scale)]
        kept_bias = None if bias is None else np.ascontiguousarray(bias)
        recipe = _Recipe(
            k,
            columns // parts,
            parts,
            int(transposed),
            zero,
            levels,
            floor,
            *(array.ctypes.data for array in kept),
            None if kept_bias is None else kept_bias.ctypes.data,
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


def quantized(
    x: Floats, zero: int = 128, levels: int = 127, floor: float = 0.0
) -> tuple[Int32s, Floats]:
    """Rows as whole numbers (0 is 0), and their peaks [m, 1]."""
    step = np.float32(1 / levels)
    seen = np.abs(x) if zero == 128 else x
    peak = seen.max(axis=1, keepdims=True, initial=floor)
    safe = np.where(peak > 0, peak, np.float32(1))
    codes = np.clip(np.rint(x / safe / step), -zero, 255 - zero).astype(np.int32)
    return np.where(peak > 0, codes, 0), peak


def expected(
    x: Floats,
    weights: Int8s,
    scale: Floats,
    bias: Floats | None = None,
    zero: int = 128,
    levels: int = 127,
    floor: float = 0.0,
) -> Floats:
    """The layer in numpy, float32 steps in the order that kernels.h states."""
    rows, peak = quantized(x, zero, levels, floor)
    step = np.float32(1 / levels)
    sums = rows @ weights.astype(np.int32)
    y = sums.astype(np.float32) * (step * scale) * peak
    return y if bias is None else y + bias
