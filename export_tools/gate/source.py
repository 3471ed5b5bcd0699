"""Outputs of the source implementation, where it is installed.

Nothing here is needed to export: without torch and transformers the comparison is left out and
the manifest says so. Only code that ships with transformers is run, never code of a checkpoint.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.bundle.manifest import EncoderGraph
from edge_runtime.core import FloatArray


def is_installed() -> bool:
    """Whether torch and transformers can be imported."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def encoder_outputs(
    checkpoint: Path, contract: EncoderGraph, batch: Sequence[Sequence[int]]
) -> FloatArray | None:
    """Float32 [len(batch), width] row by row, or None where the source is not installed."""
    if not is_installed():
        return None
    import torch
    import transformers

    classify = contract.pooling == "none"
    loader: Any = (
        transformers.AutoModelForSequenceClassification if classify else transformers.AutoModel
    )
    model = (
        loader.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)
        .float()
        .eval()
    )
    rows: list[FloatArray] = []
    with torch.inference_mode():
        for tokens in batch:
            output = model(torch.tensor([list(tokens)]))
            rows.append(_row(output, contract, classify=classify))
    return np.stack(rows)


def _row(output: Any, contract: EncoderGraph, *, classify: bool) -> FloatArray:
    """One output row as the graph defines it."""
    if classify:
        logits: FloatArray = output.logits[0].numpy().astype(np.float32)
        return logits
    hidden: FloatArray = output.last_hidden_state[0].numpy().astype(np.float32)
    pooled: FloatArray = hidden.mean(axis=0) if contract.pooling == "mean" else hidden[0]
    if contract.normalized:
        pooled = pooled / max(float(np.linalg.norm(pooled)), 1e-12)
    return pooled


def decoder_logits(checkpoint: Path, batch: Sequence[Sequence[int]]) -> list[FloatArray] | None:
    """Logits [len(row), vocab] after each token of each row, or None where not installed."""
    if not is_installed():
        return None
    import torch
    import transformers

    model = (
        transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint, trust_remote_code=False, local_files_only=True
        )
        .float()
        .eval()
    )
    with torch.inference_mode():
        return [model(torch.tensor([list(tokens)])).logits[0].float().numpy() for tokens in batch]
