"""What an exporter hands to the bundle builder for one variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.bundle.manifest import DecoderGraph, EncoderGraph
from export_tools.graph import native_path


@dataclass(frozen=True, slots=True)
class VariantDraft:
    """One exported variant. `graph` and `files` are POSIX paths relative to the bundle.

    `files` holds the graphs and their external data; `size_bytes` is their sum. `native_graph`
    is the same model in the daemon's native operators, over the same data. `cpu_features` names
    what the arithmetic needs to be right, not only fast.
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
    native_graph: str | None = None


def native_graph(variant: str, files: Sequence[Path]) -> str | None:
    """The native graph among the files that a builder wrote for `variant`, as a bundle path."""
    name = native_path(files[0]).name
    return f"{variant}/{name}" if any(file.name == name for file in files) else None
