"""The interface of a weight format, and the plan that picks one for each unit.

A unit is what the graph computes with one weight: `layers.3.qkv`, `layers.3.o`,
`layers.3.gate_up`, `layers.3.down`, `head`, `embedding`. Projections that are fused in the
graph are one unit, because they can only be quantised together.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from export_tools.graph import GraphBuilder
from export_tools.quant.rows import FloatArray, Rows


@dataclass(frozen=True, slots=True)
class Activation:
    """A value [T, K] of the graph that stands for `value * row_scale`.

    `row_scale` [T, 1] is a factor not applied yet. Per-row quantisation does not see a factor
    of the row, so it can travel through a linear layer as T numbers instead of T*K.
    `lowest` is a bound that no entry lies below, 0 or less, where the operation before gives
    one (ReLU: 0, GELU: -0.17): a format may spend its range on the other side.
    """

    value: str
    row_scale: str | None = None
    lowest: float | None = None

    def materialise(self, graph: GraphBuilder) -> str:
        """Name of the value with the factor applied; at most one Mul however often called."""
        if self.row_scale is None:
            return self.value
        key = ("scaled", self.value, self.row_scale)
        if key not in graph.memo:
            graph.memo[key] = graph.node(
                "Mul", [self.value, self.row_scale], f"{self.value}/scaled"
            )
        return str(graph.memo[key])


class WeightFormat(Protocol):
    """How weights lie in the file and how the graph multiplies with them."""

    @property
    def label(self) -> str:
        """The name a plan uses."""

    def linear(
        self,
        graph: GraphBuilder,
        name: str,
        x: Activation,
        weight: Rows,
        bias: FloatArray | None = None,
    ) -> Activation:
        """Emit `x @ weight.T + bias` for packed x [T, K]; the result is [T, N].

        `weight` is read once, in order. A row of the result depends on that row of x only.
        """

    def embedding(self, graph: GraphBuilder, name: str, ids: str, table: Rows) -> str:
        """Emit the lookup of rows of `table`; float32 [T, cols]."""

    def tied(
        self, graph: GraphBuilder, head: str, embedding: str, ids: str, table: Rows
    ) -> tuple[str, TiedHead]:
        """Emit the lookup over weights that also serve as output head.

        Returns the embedded rows and a function that emits the head over the same weights.
        `table` is read once.
        """


class TiedHead(Protocol):
    """Emits the output head of a model with tied embeddings."""

    def __call__(self, x: Activation) -> Activation:
        """Logits [L, V] of hidden rows [L, K]."""


@dataclass(frozen=True)
class QuantPlan:
    """Which format each unit gets: the first pattern that matches, else `default`.

    Patterns are shell-style (`layers.*.down`). A tied head and embedding share the format of
    `head`.
    """

    default: WeightFormat
    units: Mapping[str, WeightFormat] = field(default_factory=dict)

    def format(self, unit: str) -> WeightFormat:
        """The format of one unit."""
        for pattern, chosen in self.units.items():
            if fnmatch.fnmatchcase(unit, pattern):
                return chosen
        return self.default

    def describe(self) -> dict[str, str]:
        """Pattern to format name, for recipes and manifests."""
        return {**{unit: fmt.label for unit, fmt in self.units.items()}, "*": self.default.label}


def add_bias(graph: GraphBuilder, name: str, x: Activation, bias: FloatArray | None) -> Activation:
    """Emit the addition of a bias [N], when there is one."""
    if bias is None:
        return x
    vector = graph.constant(f"{name}/bias", bias.astype(np.float32))
    return Activation(graph.node("Add", [x.materialise(graph), vector], f"{name}/biased"))
