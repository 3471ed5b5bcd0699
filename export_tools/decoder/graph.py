"""Builds the packed decoder graph of one checkpoint, without a tensor library.

All tokens of a step lie on one axis T; only attention is padded, to [B, S]. Inputs:

    input_ids int64 [T], pad_index int64 [B, S], unpad_index int64 [T],
    query_seqlens int32 [B], seqlens_k int32 [B] (cached + new - 1), total_len int32 [1],
    logits_index int64 [L], past_key_values.N.key/value float32 [B, Hkv, C, D]

Outputs: logits float32 [L, V], present.N.key/value (bind them to the past's buffers).

The graph in native operators pads nothing: it declares the same inputs, and says by the property
`attention = packed` that it reads none of pad_index, unpad_index and total_len.

Rules
- A token's result depends on its own sequence only, whatever else the step computes.
- Nodes are the price of a step of one token: residual adds ride in the norms, rope in
  attention, and row scales travel beside their value until something needs them applied.
- Behind the last attention only the rows of `logits_index` go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto

from export_tools.decoder.config import DecoderConfig
from export_tools.decoder.rope import rope_tables
from export_tools.decoder.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix
from export_tools.graph import MS_DOMAIN, GraphBuilder, native_path
from export_tools.quant import Activation, GatedFormat, QuantPlan, StackedRows, native_plan
from export_tools.quant.formats import TiedHead
from export_tools.quant.native import NATIVE_DOMAIN
from export_tools.quant.rows import FloatArray
from export_tools.weights import Checkpoint

ROPE_SLACK = 2048
"""Rope positions beyond the context: padding of a chunk is rotated too, and `total_len` may be
the capacity of a slot."""


def build_decoder(
    checkpoint: Checkpoint, config: DecoderConfig, plan: QuantPlan, path: Path
) -> list[Path]:
    """Write the graph to `path` and its weights beside it. Returns both files, and behind them
    the graph in native operators over the same weights when the plan has per-row INT8.

    Memory: one block of the source, and the integer form of the largest single weight.
    """
    with GraphBuilder(path, "decoder") as graph:
        DecoderBuilder(graph, checkpoint, config, plan).build()
        files = graph.save()
    native = native_plan(plan)
    if native is None:
        return files
    with GraphBuilder(native_path(path), "decoder", over=graph) as second:
        second.properties["attention"] = "packed"
        DecoderBuilder(second, checkpoint, config, native, packed=True).build()
        return [*files, *second.save()]


class DecoderBuilder:
    """Emits one decoder, layer by layer."""

    def __init__(
        self,
        graph: GraphBuilder,
        checkpoint: Checkpoint,
        config: DecoderConfig,
        plan: QuantPlan,
        *,
        packed: bool = False,
    ) -> None:
        """`packed`: attention by the native operator, without padding."""
        self.graph = graph
        self.packed = packed
        self.checkpoint = checkpoint
        self.config = config
        self.plan = plan

    def build(self) -> None:
        """Emit the whole graph."""
        self._inputs()
        self._shared()
        rows, head = self._embedding()
        residual = rows
        x = self._first_norm(rows)
        for layer in range(self.config.layers):
            residual, x = self._layer(layer, residual, x)
        logits = head(Activation(x)).materialise(self.graph)
        self.graph.node("Identity", [logits], "logits")
        self.graph.output("logits", TensorProto.FLOAT, ["L", self.config.vocab])
        for layer in range(self.config.layers):
            for part in ("key", "value"):
                self.graph.output(f"present.{layer}.{part}", TensorProto.FLOAT, self._kv_shape())

    def _kv_shape(self) -> list[int | str]:
        return ["B", self.config.kv_heads, "C", self.config.head_dim]

    def _inputs(self) -> None:
        int64, int32 = TensorProto.INT64, TensorProto.INT32
        self.graph.input("input_ids", int64, ["T"])
        self.graph.input("pad_index", int64, ["B", "S"])
        self.graph.input("unpad_index", int64, ["T"])
        self.graph.input("query_seqlens", int32, ["B"])
        self.graph.input("seqlens_k", int32, ["B"])
        self.graph.input("total_len", int32, [1])
        self.graph.input("logits_index", int64, ["L"])
        for layer in range(self.config.layers):
            for part in ("key", "value"):
                name = f"past_key_values.{layer}.{part}"
                self.graph.input(name, TensorProto.FLOAT, self._kv_shape())

    def _shared(self) -> None:
        """Rope tables, and (slot, position) of each packed token for taking padding away."""
        graph = self.graph
        cos, sin = rope_tables(self.config.rope, self.config.context + ROPE_SLACK)
        graph.constant("cos", cos)
        graph.constant("sin", sin)
        if self.packed:
            return
        graph.node("Shape", ["pad_index"], "pad_index/width", start=1, end=2)
        last = graph.constant("unpad/axis", np.array([-1], np.int64))
        slot = graph.node("Div", ["unpad_index", "pad_index/width"], "unpad/slot")
        position = graph.node("Mod", ["unpad_index", "pad_index/width"], "unpad/position")
        pair = [
            graph.node("Unsqueeze", [part, last], f"{part}/column") for part in (slot, position)
        ]
        graph.node("Concat", pair, "unpad/all", axis=1)
        graph.node("Gather", ["unpad/all", "logits_index"], "unpad/logits")

    def _embedding(self) -> tuple[str, TiedHead]:
        """The embedded tokens, and a function that emits the head."""
        table = self.checkpoint.matrix(EMBEDDING)
        head_format = self.plan.format("head")
        if self.config.tied:
            return head_format.tied(self.graph, "head", "embedding", "input_ids", table)
        rows = self.plan.format("embedding").embedding(self.graph, "embedding", "input_ids", table)
        untied = self.checkpoint.matrix(HEAD)
        return rows, lambda x: head_format.linear(self.graph, "head", x, untied)

    def _first_norm(self, rows: str) -> str:
        gamma = self._vector(layer_prefix(0) + "input_layernorm.weight")
        return self.graph.node(
            "SimplifiedLayerNormalization",
            [rows, gamma],
            "layers.0.norm",
            axis=-1,
            epsilon=self.config.norm_eps,
        )

    def _layer(self, layer: int, residual: str, x: str) -> tuple[str, str]:
        """Emit one layer. Takes and returns the residual stream and its normed form."""
        prefix, unit = layer_prefix(layer), f"layers.{layer}"
        last = layer == self.config.layers - 1
        if self.packed:
            attended = self._packed_attention(layer, x)
            if last:
                attended = self.graph.node("Gather", [attended, "logits_index"], "logits/attended")
        else:
            attended = self._attention(layer, x, "unpad/logits" if last else "unpad/all")
        if last:
            residual = self.graph.node("Gather", [residual, "logits_index"], "logits/residual")
        mixed = self._linear(f"{unit}.o", Activation(attended), prefix, ["self_attn.o_proj"])
        residual, x = self._add_norm(
            f"{unit}.mlp_norm", residual, mixed, prefix + "post_attention_layernorm.weight"
        )
        following = layer_prefix(layer + 1) + "input_layernorm.weight"
        return self._add_norm(
            f"layers.{layer + 1}.norm",
            residual,
            self._mlp(layer, x),
            FINAL_NORM if last else following,
        )

    def _add_norm(
        self, name: str, residual: str, change: Activation, gamma: str
    ) -> tuple[str, str]:
        """Residual plus change, and its RMS norm, in one node."""
        normed, _, _, total = self.graph.nodes(
            "SkipSimplifiedLayerNormalization",
            [residual, change.materialise(self.graph), self._vector(gamma)],
            [name, "", "", f"{name}/sum"],
            domain=MS_DOMAIN,
            epsilon=self.config.norm_eps,
        )
        return total, normed

    def _qkv(self, layer: int, x: str) -> str:
        """Queries, keys and values of the packed rows, joined: [T, (H + 2 Hkv) * D]."""
        parts = [f"self_attn.{name}_proj" for name in ("q", "k", "v")]
        name = f"layers.{layer}.qkv"
        qkv = self._linear(name, Activation(x), layer_prefix(layer), parts)
        return qkv.materialise(self.graph)

    def _packed_attention(self, layer: int, x: str) -> str:
        """Attention of all packed rows by the native operator: [T, H*D]."""
        config = self.config
        rows = [self._qkv(layer, x)]
        if config.qk_norm:
            rows = self._head_norms(layer, rows[0])
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        shared = ["query_seqlens", "seqlens_k", "cos", "sin"]
        attended, _, _ = self.graph.nodes(
            "PackedAttention",
            [rows[0], *past, *shared, *rows[1:]],
            [f"layers.{layer}.attention", f"present.{layer}.key", f"present.{layer}.value"],
            domain=NATIVE_DOMAIN,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            local_window_size=config.windows[layer] or -1,
        )
        return attended

    def _attention(self, layer: int, x: str, rows: str) -> str:
        """Attention output of the packed rows named by the index `rows` [R, 2]: [R, H*D]."""
        config, graph, unit = self.config, self.graph, f"layers.{layer}"
        packed = self._qkv(layer, x)
        if config.qk_norm:
            heads = self._head_norms(layer, packed)
            packed = graph.node("Concat", heads, f"{unit}.heads/joined", axis=1)
        padded = graph.node("Gather", [packed, "pad_index"], f"{unit}.padded")
        if config.qk_norm:
            shape = np.array([0, 0, config.q_width + 2 * config.kv_width], np.int64)
            graph.constant("qkv/flat_shape", shape)
            padded = graph.node("Reshape", [padded, "qkv/flat_shape"], f"{unit}.padded/flat")
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        unused = [""] * 7  # position_ids ... k_norm_weight
        attended, _, _ = graph.nodes(
            "GroupQueryAttention",
            [
                padded,
                "",
                "",
                *past,
                "seqlens_k",
                "total_len",
                "cos",
                "sin",
                *unused,
                "query_seqlens",
            ],
            [f"{unit}.attention", f"present.{layer}.key", f"present.{layer}.value"],
            domain=MS_DOMAIN,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            do_rotary=1,
            local_window_size=config.windows[layer] or -1,
        )
        return graph.node("GatherND", [attended, rows], f"{unit}.unpadded")

    def _head_norms(self, layer: int, qkv: str) -> list[str]:
        """Queries and keys behind the RMS norm of each head, and values; each [T, heads, D].

        The CPU kernel has no fused form.
        """
        config, graph, unit = self.config, self.graph, f"layers.{layer}"
        total = config.heads + 2 * config.kv_heads
        graph.constant("qkv/head_shape", np.array([-1, total, config.head_dim], np.int64))
        graph.constant(
            "qkv/split", np.array([config.heads, config.kv_heads, config.kv_heads], np.int64)
        )
        split = graph.node("Reshape", [qkv, "qkv/head_shape"], f"{unit}.heads")
        names = [f"{unit}.heads/{part}" for part in ("q", "k", "v")]
        query, key, value = graph.nodes("Split", [split, "qkv/split"], names, axis=1)
        normed = [
            graph.node(
                "SimplifiedLayerNormalization",
                [part, self._vector(f"{layer_prefix(layer)}self_attn.{kind}_norm.weight")],
                f"{part}/norm",
                axis=-1,
                epsilon=config.norm_eps,
            )
            for part, kind in ((query, "q"), (key, "k"))
        ]
        return [*normed, value]

    def _mlp(self, layer: int, x: str) -> Activation:
        """down(silu(gate(x)) * up(x)).

        One product for gate and up: waking threads twice costs a one-token step more than the
        Split that takes them apart. The row scale is applied to the gate only; that of `up`
        passes through the element-wise product to `down`.
        """
        graph, unit, prefix = self.graph, f"layers.{layer}", layer_prefix(layer)
        parts = ["mlp.gate_proj", "mlp.up_proj"]
        chosen = self.plan.format(f"{unit}.gate_up")
        if isinstance(chosen, GatedFormat):
            weight, bias = self._weights(prefix, parts)
            inner = chosen.gated_linear(graph, f"{unit}.gate_up", Activation(x), weight, bias)
            return self._linear(f"{unit}.down", inner, prefix, ["mlp.down_proj"])
        both = self._linear(f"{unit}.gate_up", Activation(x), prefix, parts)
        names = [f"{unit}.gate", f"{unit}.up"]
        gate, up = graph.nodes("Split", [both.value], names, axis=-1, num_outputs=2)
        scaled = Activation(gate, both.row_scale).materialise(graph)
        active = graph.node("QuickGelu", [scaled], f"{unit}.silu", domain=MS_DOMAIN, alpha=1.0)
        product = graph.node("Mul", [active, up], f"{unit}.product")
        inner = Activation(product, both.row_scale)
        return self._linear(f"{unit}.down", inner, prefix, ["mlp.down_proj"])

    def _linear(
        self,
        name: str,
        x: Activation,
        prefix: str,
        parts: Sequence[str],
    ) -> Activation:
        """Emit one linear unit over the stacked weights of `parts`, biased when they are."""
        weight, bias = self._weights(prefix, parts)
        return self.plan.format(name).linear(self.graph, name, x, weight, bias)

    def _weights(self, prefix: str, parts: Sequence[str]) -> tuple[StackedRows, FloatArray | None]:
        """The stacked weights and biases of `parts`; nothing but biases is read yet."""
        weight = StackedRows([self.checkpoint.matrix(f"{prefix}{part}.weight") for part in parts])
        biases = [f"{prefix}{part}.bias" for part in parts]
        bias: FloatArray | None = None
        if biases[0] in self.checkpoint.tensors:
            bias = np.concatenate([self.checkpoint.vector(name) for name in biases])
        return weight, bias

    def _vector(self, tensor: str) -> str:
        return self.graph.constant(tensor, self.checkpoint.vector(tensor))
