"""Plain float32 weights: the reference every quantised variant is judged against."""

from __future__ import annotations

import numpy as np

from export_tools.graph import GraphBuilder
from export_tools.quant.formats import Activation, TiedHead
from export_tools.quant.rows import FloatArray, Rows


class Float32:
    """One Gemm a unit, weights as stored ([N, K]), bias fused."""

    label = "fp32"

    def linear(
        self,
        graph: GraphBuilder,
        name: str,
        x: Activation,
        weight: Rows,
        bias: FloatArray | None = None,
    ) -> Activation:
        """Emit `x @ weight.T + bias` in float32. x: [T, K]."""
        table = self._store(graph, name, weight)
        return self._gemm(graph, name, x, table, bias)

    def embedding(self, graph: GraphBuilder, name: str, ids: str, table: Rows) -> str:
        """Emit a float32 lookup."""
        return graph.node("Gather", [self._store(graph, name, table), ids], name)

    def tied(
        self, graph: GraphBuilder, head: str, embedding: str, ids: str, table: Rows
    ) -> tuple[str, TiedHead]:
        """One table for both: the head multiplies with its transpose."""
        stored = self._store(graph, head, table)
        rows = graph.node("Gather", [stored, ids], embedding)
        return rows, lambda x: self._gemm(graph, head, x, stored, None)

    def _store(self, graph: GraphBuilder, name: str, weight: Rows) -> str:
        shape = (weight.rows, weight.cols)
        return graph.weight(f"{name}/weight", np.float32, shape, weight.blocks())

    def _gemm(
        self, graph: GraphBuilder, name: str, x: Activation, table: str, bias: FloatArray | None
    ) -> Activation:
        inputs = [x.materialise(graph), table]
        if bias is not None:
            inputs.append(graph.constant(f"{name}/bias", bias.astype(np.float32)))
        return Activation(graph.node("Gemm", inputs, name, transB=1))
