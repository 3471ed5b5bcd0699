"""Per-row INT8: int8 weights with a scale per output, activations quantised row by row.

Arithmetic, for a row x and a weight column w with scale s_w:

    m = max|x|;  q = round(127 * x / m) + 128  (uint8);  y = m/127 * s_w * sum((q - 128) * w)

Rules
- The scale of a row comes from that row alone, so neighbours in a step cannot change an answer.
- Activations are uint8: the int8 x int8 kernels of x86 are many times slower.
- A row of zeros needs no guard: 0/0 gives some byte, the integer sum is finite, times m = 0.
- x86 without VNNI adds uint8 x int8 pairs in 16 bits and saturates: 7-bit weights stay below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from export_tools.graph import MS_DOMAIN, GraphBuilder
from export_tools.quant.formats import Activation, TiedHead, add_bias
from export_tools.quant.rows import FloatArray, Rows

Int8Array = npt.NDArray[np.int8]

_BELOW = 64
"""Codes below zero for inputs with a known lower bound: 64 of 255 leave 191 for the rest."""


def quantize_rows(block: FloatArray, limit: int = 127) -> tuple[Int8Array, FloatArray]:
    """Symmetric int8 of each row of `block` [n, K]: values in [-limit, limit] and scales [n].

    A row of zeros gets scale 1. The error of an entry is at most half its row's scale.
    """
    peak = np.abs(block).max(axis=1, initial=0.0)
    scale = np.where(peak > 0, peak / limit, 1.0).astype(np.float32)
    values = np.clip(np.rint(block / scale[:, None]), -limit, limit)
    return values.astype(np.int8), scale


@dataclass(frozen=True, slots=True)
class QuantizedRows:
    """Names of uint8 rows [T, K], their peaks m [T, 1] (a pending factor of x included), and
    the constants of the grid: entry = (row - zero) * step * m.
    """

    rows: str
    peak: str
    step: str
    zero: str


@dataclass(frozen=True, slots=True)
class RowCodes:
    """How the entries of a row become bytes: 0 is `zero`, the row's peak is `levels` above it.

    Symmetric rows (zero 128) have the peak max|x|, one-sided ones max(max x, floor).
    """

    zero: int = 128
    levels: int = 127
    floor: float = 0.0


def row_codes(x: Activation) -> RowCodes:
    """The codes for rows of x, by what is known of its range."""
    if x.lowest is None or x.row_scale is not None:
        return RowCodes()
    if not x.lowest:
        return RowCodes(0, 255)
    floor = np.float32(-x.lowest * (255 - _BELOW) / _BELOW)
    return RowCodes(_BELOW, 255 - _BELOW, float(floor))


def quantized_input(graph: GraphBuilder, x: Activation) -> QuantizedRows:
    """Emit the row-wise quantisation of x [T, K], once for all units that read it."""
    key = ("int8-rows", x.value, x.row_scale or "")
    if key not in graph.memo:
        graph.memo[key] = _quantize(graph, x)
    quantized: QuantizedRows = graph.memo[key]
    return quantized


def _quantize(graph: GraphBuilder, x: Activation) -> QuantizedRows:
    base = f"{x.value}/q"
    last = graph.constant("last_axis", np.array([-1], np.int64))
    codes = row_codes(x)
    step, zero = _grid(graph, codes)
    if codes.zero == 128:
        magnitude = graph.node("Abs", [x.value], f"{base}/abs")
        peak = graph.node("ReduceMax", [magnitude, last], f"{base}/peak", keepdims=1)
    else:
        peak = graph.node("ReduceMax", [x.value, last], f"{base}/top", keepdims=1)
        if codes.floor:
            floor = graph.constant(f"{base}/least", np.array(codes.floor, np.float32))
            peak = graph.node("Max", [peak, floor], f"{base}/peak")
    unit = graph.node("Div", [x.value, peak], f"{base}/unit")
    rows = graph.node("QuantizeLinear", [unit, step, zero], f"{base}/rows")
    if x.row_scale is not None:
        peak = graph.node("Mul", [peak, x.row_scale], f"{base}/scale")
    return QuantizedRows(rows, peak, step, zero)


def _grid(graph: GraphBuilder, codes: RowCodes) -> tuple[str, str]:
    """Step and zero point of rows whose largest entry was brought to 1."""
    step = graph.constant(f"row_step/{codes.zero}", np.array(1 / codes.levels, np.float32))
    return step, graph.constant(f"row_zero/{codes.zero}", np.array(codes.zero, np.uint8))


@dataclass(frozen=True)
class Int8Rows:
    """W8A8 with one weight scale an output and one activation scale a row.

    `reduce_range` stores 7-bit weights for x86 CPUs without VNNI; error is about 1.6 times
    that of 8 bits. Memory: N*K bytes and 4*N for scales.
    """

    reduce_range: bool = False

    @property
    def label(self) -> str:
        """The name a plan uses."""
        return "int8-7bit" if self.reduce_range else "int8"

    @property
    def limit(self) -> int:
        """Largest magnitude of a stored weight."""
        return 63 if self.reduce_range else 127

    def linear(
        self,
        graph: GraphBuilder,
        name: str,
        x: Activation,
        weight: Rows,
        bias: FloatArray | None = None,
    ) -> Activation:
        """Emit `x @ weight.T + bias`. x: [T, K]. The row scale of the result stays pending."""
        columns, scale = self._columns(weight)
        stored = graph.weight(f"{name}/weight", np.int8, columns.shape, [columns])
        graph.constant(f"{name}/scale", scale)
        return add_bias(graph, name, self._multiply(graph, name, x, stored), bias)

    def embedding(self, graph: GraphBuilder, name: str, ids: str, table: Rows) -> str:
        """Emit the lookup of int8 rows and their scales."""
        stored, scales = self._store_rows(graph, name, table)
        factors = graph.constant(f"{name}/scale", scales[:, None])
        return self._lookup(graph, name, ids, stored, factors)

    def tied(
        self, graph: GraphBuilder, head: str, embedding: str, ids: str, table: Rows
    ) -> tuple[str, TiedHead]:
        """One stored table [V, K] for lookup and head.

        The head needs it as [K, V]: the Transpose is of a constant, so the runtime folds it
        while loading and keeps only its own packed form.
        """
        stored, scales = self._store_rows(graph, head, table)
        scale = graph.constant(f"{head}/scale", scales)
        factors = graph.alias(f"{embedding}/scale", scale, (table.rows, 1))
        rows = self._lookup(graph, embedding, ids, stored, factors)

        def emit_head(x: Activation) -> Activation:
            columns = graph.node("Transpose", [stored], f"{head}/columns", perm=[1, 0])
            return self._multiply(graph, head, x, columns)

        return rows, emit_head

    def _columns(self, weight: Rows) -> tuple[Int8Array, FloatArray]:
        """The whole weight as int8 [K, N] and its scales [N]; float blocks come and go."""
        columns = np.empty((weight.cols, weight.rows), np.int8)
        scales = np.empty(weight.rows, np.float32)
        start = 0
        for block in weight.blocks():
            stop = start + len(block)
            values, scales[start:stop] = quantize_rows(block, self.limit)
            columns[:, start:stop] = values.T
            start = stop
        return columns, scales

    def _store_rows(self, graph: GraphBuilder, name: str, table: Rows) -> tuple[str, FloatArray]:
        """Write int8 [rows, cols]; returns the initializer and the scales [rows]."""
        scales = np.empty(table.rows, np.float32)

        def blocks() -> Iterator[Int8Array]:
            start = 0
            for block in table.blocks():
                stop = start + len(block)
                values, scales[start:stop] = quantize_rows(block, self.limit)
                yield values
                start = stop

        stored = graph.weight(f"{name}/weight", np.int8, (table.rows, table.cols), blocks())
        return stored, scales

    def _lookup(self, graph: GraphBuilder, name: str, ids: str, stored: str, scale: str) -> str:
        """`scale` is [rows, 1]."""
        rows = graph.node("Gather", [stored, ids], f"{name}/int8")
        values = graph.node("Cast", [rows], f"{name}/values", to=TensorProto.FLOAT)
        factors = graph.node("Gather", [scale, ids], f"{name}/factors")
        return graph.node("Mul", [values, factors], name)

    def _multiply(self, graph: GraphBuilder, name: str, x: Activation, columns: str) -> Activation:
        x8 = quantized_input(graph, x)
        product = graph.node(
            "MatMulIntegerToFloat",
            [x8.rows, columns, x8.step, f"{name}/scale", x8.zero],
            name,
            domain=MS_DOMAIN,
        )
        return Activation(product, x8.peak)
