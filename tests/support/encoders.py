"""Tiny BERT checkpoints made without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from export_tools.synth import write_tokenizer
from tests.support.decoders import Tensors, write_safetensors

TINY_VOCAB = 320
TINY_CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": TINY_VOCAB,
    "hidden_act": "gelu",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
LABELS = ("yes", "no", "maybe")
LINEAR = ("attention.self.query", "attention.self.key", "attention.self.value")


def write_checkpoint(directory: Path, *, labels: tuple[str, ...] = (), **changes: Any) -> Path:
    """Write a random BERT with a working tokenizer; with `labels`, a classifier."""
    config = {**TINY_CONFIG, **changes}
    if labels:
        config["architectures"] = ["BertForSequenceClassification"]
        config["id2label"] = {str(index): name for index, name in enumerate(labels)}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    write_safetensors(directory / "model.safetensors", random_tensors(config, len(labels)))
    write_tokenizer(directory, TINY_VOCAB)
    return directory


def random_tensors(config: dict[str, Any], labels: int) -> Tensors:
    """Float32 weights of every tensor of a BERT, with a head when `labels` is not 0."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **_norm("embeddings.LayerNorm", hidden),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        for name in (*LINEAR, "attention.output.dense"):
            shapes |= _linear(f"{layer}.{name}", hidden, hidden)
        shapes |= _linear(f"{layer}.intermediate.dense", wide, hidden)
        shapes |= _linear(f"{layer}.output.dense", hidden, wide)
        shapes |= _norm(f"{layer}.attention.output.LayerNorm", hidden)
        shapes |= _norm(f"{layer}.output.LayerNorm", hidden)
    shapes = {f"bert.{name}": shape for name, shape in shapes.items()}
    if labels:
        shapes |= _linear("bert.pooler.dense", hidden, hidden)
        shapes |= _linear("classifier", labels, hidden)
    rng = np.random.default_rng(1)
    tensors: Tensors = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, np.float32) * np.float32(0.15)
        tensors[name] = values + 1 if name.endswith("LayerNorm.weight") else values
    return tensors


def _linear(prefix: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": (outputs, inputs), f"{prefix}.bias": (outputs,)}


def _norm(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": (width,), f"{prefix}.bias": (width,)}
