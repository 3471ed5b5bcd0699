"""Block-wise weights for the MatMulNBits operator: 4 or 8 bits, a scale per block of inputs.

Accuracy level 4 quantises activations per block of each row, so answers do not depend on
neighbours. The other levels are an order of magnitude slower at 8 bits on CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export_tools.graph import MS_DOMAIN, GraphBuilder
from export_tools.quant.formats import Activation, TiedHead, add_bias
from export_tools.quant.rows import FloatArray, Rows

Packed = npt.NDArray[np.uint8]


def quantize_blocks(rows: FloatArray, bits: int, block: int) -> tuple[Packed, FloatArray]:
    """Symmetric blocks of each row [n, K]: codes [n, B, block*bits/8] and scales [n, B].

    The entry of largest magnitude of a block gets the code 0, whose range is one step longer;
    the zero point is 2**(bits-1). Columns beyond K are zero. Two 4-bit codes share a byte,
    the lower first.
    """
    count, width = rows.shape
    blocks = -(-width // block)
    padded = np.zeros((count, blocks * block), np.float32)
    padded[:, :width] = rows
    grouped = padded.reshape(count, blocks, block)
    peak = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=2)[..., None], axis=2)
    zero = 1 << (bits - 1)
    scale = (peak[..., 0] / -zero).astype(np.float32)
    safe = np.where(scale == 0, 1.0, scale)[..., None]
    codes = np.clip(np.rint(grouped / safe) + zero, 0, 2 * zero - 1).astype(np.uint8)
    if bits == 4:
        codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return codes, scale


@dataclass(frozen=True)
class NBits:
    """MatMulNBits weights. Memory: N*K*bits/8 bytes and 4*N*K/block for scales."""

    bits: int
    block: int = 32
    accuracy_level: int = 4

    @property
    def label(self) -> str:
        """The name a plan uses."""
        return f"nbits{self.bits}-b{self.block}"

    def linear(
        self,
        graph: GraphBuilder,
        name: str,
        x: Activation,
        weight: Rows,
        bias: FloatArray | None = None,
    ) -> Activation:
        """Emit `x @ weight.T + bias`. x: [T, K]."""
        self._store(graph, name, weight)
        return add_bias(graph, name, self._multiply(graph, name, x, weight), bias)

    def embedding(self, graph: GraphBuilder, name: str, ids: str, table: Rows) -> str:
        """Emit the lookup of block-quantised rows."""
        self._store(graph, name, table, shape=self._table_shape(name, table))
        return self._lookup(graph, name, f"{name}/weight", f"{name}/scale", ids)

    def tied(
        self, graph: GraphBuilder, head: str, embedding: str, ids: str, table: Rows
    ) -> tuple[str, TiedHead]:
        """One table: the lookup reads the head's bytes under the shape it wants."""
        self._store(graph, head, table)
        shape = self._table_shape(head, table)
        codes = graph.alias(f"{embedding}/weight", f"{head}/weight", shape)
        rows = self._lookup(graph, embedding, codes, f"{head}/scale", ids)
        return rows, lambda x: self._multiply(graph, head, x, table)

    def _store(
        self, graph: GraphBuilder, name: str, weight: Rows, shape: tuple[int, ...] | None = None
    ) -> None:
        blocks = -(-weight.cols // self.block)
        scales = np.empty((weight.rows, blocks), np.float32)

        def codes() -> Iterator[Packed]:
            start = 0
            for rows in weight.blocks():
                stop = start + len(rows)
                packed, scales[start:stop] = quantize_blocks(rows, self.bits, self.block)
                yield packed
                start = stop

        stored_shape = shape or (weight.rows, blocks, self.block * self.bits // 8)
        graph.weight(f"{name}/weight", np.uint8, stored_shape, codes())
        graph.constant(f"{name}/scale", scales)

    def _table_shape(self, name: str, table: Rows) -> tuple[int, int]:
        """Shape of the codes of a lookup table."""
        if table.cols % self.block:
            raise ValueError(
                f"{name}: width {table.cols} is no multiple of the block of {self.block}; "
                "choose int8 for the embedding"
            )
        return table.rows, table.cols * self.bits // 8

    def _lookup(self, graph: GraphBuilder, name: str, codes: str, scale: str, ids: str) -> str:
        return graph.node(
            "GatherBlockQuantized",
            [codes, ids, scale],
            name,
            domain=MS_DOMAIN,
            bits=self.bits,
            block_size=self.block,
            gather_axis=0,
            quantize_axis=1,
        )

    def _multiply(self, graph: GraphBuilder, name: str, x: Activation, weight: Rows) -> Activation:
        product = graph.node(
            "MatMulNBits",
            [x.materialise(graph), f"{name}/weight", f"{name}/scale"],
            name,
            domain=MS_DOMAIN,
            K=weight.cols,
            N=weight.rows,
            bits=self.bits,
            block_size=self.block,
            accuracy_level=self.accuracy_level,
        )
        return Activation(product)
