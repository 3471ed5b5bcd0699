"""Packed attention in plain numpy, and a session around the native operator alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper

from edge_runtime.engine import native

Floats = npt.NDArray[np.float32]
POSITIONS = 512


@dataclass(frozen=True)
class Shape:
    """Heads of one attention layer; `window` 0 means all keys."""

    group: int
    kv_heads: int
    dim: int
    window: int = 0

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.group * self.kv_heads

    @property
    def row(self) -> int:
        """Floats of a row of joined q, k and v."""
        return (self.heads + 2 * self.kv_heads) * self.dim


def rope_tables(dim: int) -> tuple[Floats, Floats]:
    """cos and sin [POSITIONS, dim / 2]."""
    angles = np.outer(np.arange(POSITIONS), 100.0 ** (-np.arange(dim // 2) / (dim // 2)))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: npt.NDArray[Any], position: int) -> npt.NDArray[np.float64]:
    """x [..., D] turned to its place, halves against each other."""
    cos, sin = (table[position].astype(np.float64) for table in rope_tables(x.shape[-1]))
    low, high = np.split(x.astype(np.float64), 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def reference(shape: Shape, rows: Floats, keys: Floats, values: Floats) -> Floats:
    """What the rows [n, row] of one sequence attend behind cached keys and values [Hkv, c, D]."""
    dim, heads = shape.dim, shape.heads
    found = np.empty((len(rows), heads * dim))
    k, v = keys.astype(np.float64), values.astype(np.float64)
    for index, row in enumerate(rows):
        parts = row.reshape(-1, dim)
        place = k.shape[1]
        new = rotate(parts[heads : heads + shape.kv_heads], place)
        k = np.concatenate([k, new[:, None]], axis=1)
        v = np.concatenate([v, parts[heads + shape.kv_heads :, None]], axis=1)
        first = max(0, place + 1 - shape.window) if shape.window else 0
        for head in range(heads):
            of = head // shape.group
            scores = k[of, first:] @ rotate(parts[head], place) / np.sqrt(dim)
            weights = np.exp(scores - scores.max())
            found[index, head * dim : (head + 1) * dim] = weights @ v[of, first:] / weights.sum()
    return found.astype(np.float32)


def model(shape: Shape, *, joined: bool = True, **attributes: Any) -> bytes:
    """A graph of the one operator."""
    names = ["q", "past_key", "past_value", "counts", "last", "cos", "sin"]
    names += [] if joined else ["k", "v"]
    if shape.window:
        attributes["local_window_size"] = shape.window
    node = helper.make_node(
        "PackedAttention",
        names,
        ["out", "key", "value"],
        domain=native.DOMAIN,
        num_heads=shape.heads,
        kv_num_heads=shape.kv_heads,
        **attributes,
    )
    ranks = {"past_key": 4, "past_value": 4, "counts": 1, "last": 1}
    inputs = [
        helper.make_tensor_value_info(
            name,
            TensorProto.INT32 if name in ("counts", "last") else TensorProto.FLOAT,
            [None] * ranks.get(name, 2),
        )
        for name in names
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
        for name, rank in (("out", 2), ("key", 4), ("value", 4))
    ]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(native.DOMAIN, 1)]
    graph = helper.make_graph([node], "g", inputs, outputs)
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    raw: bytes = made.SerializeToString()
    return raw


class Slots:
    """Slots full of NaN, and the operator over them, in place or by copies."""

    def __init__(
        self,
        library: Path,
        shape: Shape,
        slots: int,
        capacity: int,
        *,
        threads: int = 2,
        in_place: bool = True,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.register_custom_ops_library(str(library))
        self.shape = shape
        self.session = ort.InferenceSession(
            model(shape), options, providers=["CPUExecutionProvider"]
        )
        self.cached = [0] * slots
        self._in_place = in_place
        size = (slots, shape.kv_heads, capacity, shape.dim)
        self.kv = {name: np.full(size, np.nan, np.float32) for name in ("key", "value")}
        self._tables = dict(zip(("cos", "sin"), rope_tables(shape.dim), strict=True))

    def step(self, rows: list[Floats]) -> list[Floats]:
        """Run one step: slot b brings rows[b] [n, row]; what they attended, slot by slot."""
        lengths = [len(part) for part in rows]
        last = [past + new - 1 for past, new in zip(self.cached, lengths, strict=True)]
        binding = self.session.io_binding()
        q = np.concatenate(rows).astype(np.float32)
        for name, value in (
            ("q", q),
            ("counts", np.array(lengths, np.int32)),
            ("last", np.array(last, np.int32)),
            *self._tables.items(),
        ):
            binding.bind_cpu_input(name, value)
        binding.bind_output("out", "cpu")
        for name, buffer in self.kv.items():
            past = ort.OrtValue.ortvalue_from_numpy(buffer)
            binding.bind_ortvalue_input(f"past_{name}", past)
            if self._in_place:
                binding.bind_ortvalue_output(name, past)
            else:
                binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        out, *present = (value.numpy() for value in binding.get_outputs())
        if not self._in_place:
            self.kv = dict(zip(self.kv, present, strict=True))
        self.cached = [past + new for past, new in zip(self.cached, lengths, strict=True)]
        return np.split(out.copy(), np.cumsum(lengths)[:-1])
