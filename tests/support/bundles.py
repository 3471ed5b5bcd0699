"""Tiny valid bundles with fake files, and a loader that stands for the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.bundle.activation import Prepared, Refused
from edge_runtime.bundle.files import Files, RealFiles, make_dirs
from edge_runtime.bundle.manifest import SCHEMA, Manifest
from edge_runtime.bundle.pack import pack


def tiny_draft(**changes: Any) -> dict[str, object]:
    """A manifest without `files` for an encoder called `tiny`; `changes` replace sections."""
    return {
        "schema": SCHEMA,
        "name": "tiny",
        "version": "1.0.0",
        "release": 1,
        "kind": "embed",
        "variants": [
            {
                "name": "int8",
                "dtype": "int8",
                "graph": "int8/model.onnx",
                "files": ["int8/model.onnx", "int8/model.onnx_data"],
                "contract": {"type": "encoder-packed/1", "width": 4, "normalized": True},
                "onnxruntime_floor": "1.20.0",
                "opset": 21,
                "ir": 10,
                "size_bytes": 12,
            }
        ],
        "tokenizer": {"file": "tokenizer.json", "pad_token_id": 0},
        "licence": "Apache-2.0",
        "source": {"id": "example/tiny", "revision": "main", "sha256": "0" * 64},
        "recipe_digest": "1" * 64,
        "gate": {"min_cosine": 0.99, "cosine_p1": 0.9931},
        "context": 16,
        "golden": [{"input": "hello", "answer": [0.5, -0.5], "tolerance": 0.01}],
        **changes,
    }


def write_tiny_bundle(
    directory: Path,
    *,
    weights: bytes = b"weights 1",
    files: Files | None = None,
    **changes: Any,
) -> Manifest:
    """Make a whole bundle at `directory`, which must not exist; other `weights`, other digest.

    `changes` replace manifest sections, as in `tiny_draft`. No file is a real model.
    """
    layer = RealFiles() if files is None else files
    make_dirs(layer, directory / "int8")
    for path, data in {
        "int8/model.onnx": b"graph",
        "int8/model.onnx_data": weights,
        "tokenizer.json": b"{}",
    }.items():
        layer.create(directory / path)
        layer.append(directory / path, data)
    return pack(directory, tiny_draft(**changes), layer)


@dataclass
class FakeLoader:
    """A `Loader` that keeps the order of calls in `events`; refuses when `refuse` is set."""

    refuse: str | None = None
    error: Exception | None = None
    events: list[str] = field(default_factory=list)

    def __call__(self, directory: Path, manifest: Manifest) -> Prepared | Refused:
        """See `Loader`."""
        self.events.append(f"load {manifest.version}")
        if self.error is not None:
            raise self.error
        return _FakePrepared(self.events) if self.refuse is None else Refused(self.refuse)


@dataclass
class _FakePrepared:
    events: list[str]

    def commit(self) -> None:
        self.events.append("commit")

    def abort(self) -> None:
        self.events.append("abort")
