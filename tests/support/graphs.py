"""Tiny bundles with a real ONNX graph whose tensors lie in an external data file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge_runtime.bundle.files import Files, make_dirs
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.pack import pack
from tests.support.bundles import tiny_draft

WEIGHTS = np.random.default_rng(5).integers(-90, 90, 60_000, dtype=np.int8)
SCALES = np.random.default_rng(6).random(1000, dtype=np.float32)


def write_graph_bundle(directory: Path, files: Files, release: int) -> Manifest:
    """A bundle with a real graph; each release moves some weights by one step."""
    step = np.random.default_rng(release).integers(-1, 2, WEIGHTS.size, dtype=np.int8)
    weights = (WEIGHTS + step * (release > 1)).tobytes()
    scales = (SCALES * np.float32(1 + 1e-6 * release)).tobytes()
    tensors = []
    for name, kind, size, offset in (
        ("w", TensorProto.INT8, WEIGHTS.size, 0),
        ("s", TensorProto.FLOAT, SCALES.size, len(weights)),
    ):
        tensor = TensorProto(name=name, data_type=kind, dims=[size])
        tensor.data_location = TensorProto.EXTERNAL
        length = size * (4 if kind == TensorProto.FLOAT else 1)
        for key, value in (
            ("location", "model.onnx_data"),
            ("offset", str(offset)),
            ("length", str(length)),
        ):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
    graph = helper.make_graph([], f"release {release}", [], [], tensors)
    model: onnx.ModelProto = helper.make_model(graph)
    make_dirs(files, directory / "int8")
    for path, data in {
        "int8/model.onnx": model.SerializeToString(),
        "int8/model.onnx_data": weights + scales,
        "tokenizer.json": b"{}",
    }.items():
        files.create(directory / path)
        files.append(directory / path, data)
    return pack(directory, tiny_draft(release=release), files)
