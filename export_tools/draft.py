"""What an exporter hands to the bundle builder for one variant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_runtime.bundle.manifest import DecoderGraph, EncoderGraph


@dataclass(frozen=True, slots=True)
class VariantDraft:
    """One exported variant. `graph` and `files` are POSIX paths relative to the bundle.

    `files` holds the graph and its external data; `size_bytes` is their sum. `cpu_features`
    names what the arithmetic needs to be right, not only fast.
    """

    name: str
    dtype: Literal["int8", "int4", "fp32"]
    graph: str
    files: tuple[str, ...]
    contract: DecoderGraph | EncoderGraph
    onnxruntime_floor: str
    opset: int
    ir: int
    cpu_features: tuple[str, ...]
    size_bytes: int
