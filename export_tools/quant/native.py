"""Per-row INT8 in the daemon's own operators, over the weights that `Int8Rows` stored.

The arithmetic is that of `int8.py`, step by step; what differs is that one node does it, reading
the weights once and forwards. A graph with these operators loads only where the daemon's native
library does, so it is always a second graph beside the portable one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from export_tools.graph import GraphBuilder
from export_tools.quant.formats import Activation, QuantPlan, TiedHead, WeightFormat
from export_tools.quant.int8 import Int8Rows, row_codes
from export_tools.quant.rows import FloatArray, Rows

NATIVE_DOMAIN = "edge_runtime"


@runtime_checkable
class GatedFormat(Protocol):
    """A weight format with a node for a whole gated product."""

    def gated_linear(
        self,
        graph: GraphBuilder,
        name: str,
        x: Activation,
        weight: Rows,
        bias: FloatArray | None = None,
    ) -> Activation:
        """Emit silu(x @ gate.T) * (x @ up.T), [T, N/2]; `weight` holds gate above up."""


@dataclass(frozen=True)
class NativeRows(Int8Rows):
    """`Int8Rows` by native operators. Needs a builder over the portable graph's weights."""

    def linear(
        self,
        graph: GraphBuilder,
        name: str,
        x: Activation,
        weight: Rows,
        bias: FloatArray | None = None,
    ) -> Activation:
        """Emit `x @ weight.T + bias`; `weight` is not read."""
        return self._node(graph, "RowLinear", name, x, bias)

    def gated_linear(
        self,
        graph: GraphBuilder,
        name: str,
        x: Activation,
        weight: Rows,
        bias: FloatArray | None = None,
    ) -> Activation:
        """Emit silu(x @ gate.T) * (x @ up.T) as one node; `weight` is not read."""
        return self._node(graph, "RowGatedLinear", name, x, bias)

    def embedding(self, graph: GraphBuilder, name: str, ids: str, table: Rows) -> str:
        """Emit the lookup of stored int8 rows and their scales."""
        stored, scale = graph.reuse(f"{name}/weight"), graph.reuse(f"{name}/scale")
        return self._lookup(graph, name, ids, stored, scale)

    def tied(
        self, graph: GraphBuilder, head: str, embedding: str, ids: str, table: Rows
    ) -> tuple[str, TiedHead]:
        """The stored table [V, K] serves the lookup as it is, and the head by rows."""
        stored, scale = graph.reuse(f"{head}/weight"), graph.reuse(f"{embedding}/scale")
        rows = self._lookup(graph, embedding, ids, stored, scale)

        def emit_head(x: Activation) -> Activation:
            return self._node(graph, "RowLinear", head, x, None, transposed=1)

        return rows, emit_head

    def _node(
        self,
        graph: GraphBuilder,
        operator: str,
        name: str,
        x: Activation,
        bias: FloatArray | None,
        **attributes: int,
    ) -> Activation:
        inputs = [x.materialise(graph), graph.reuse(f"{name}/weight"), graph.reuse(f"{name}/scale")]
        if bias is not None:
            inputs.append(graph.constant(f"{name}/bias", bias.astype(np.float32)))
        codes = row_codes(x)
        options: dict[str, Any] = dict(attributes)
        if codes.zero != 128:
            options.update(zero=codes.zero, levels=codes.levels, floor=codes.floor)
        return Activation(graph.node(operator, inputs, name, domain=NATIVE_DOMAIN, **options))


def native_plan(plan: QuantPlan) -> QuantPlan | None:
    """The same plan with native operators for per-row INT8; None when it has no such unit."""
    units = {unit: _native(chosen) for unit, chosen in plan.units.items()}
    chosen = QuantPlan(_native(plan.default), units)
    found = any(isinstance(item, NativeRows) for item in (chosen.default, *units.values()))
    return chosen if found else None


def _native(chosen: WeightFormat) -> WeightFormat:
    return NativeRows(chosen.reduce_range) if isinstance(chosen, Int8Rows) else chosen
