"""The gate of embedding models and classifiers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.bundle.manifest import EncoderGraph
from edge_runtime.core import EncoderModel, FloatArray
from edge_runtime.engine.offline import EncoderSession, native_operators_run, open_encoder
from edge_runtime.errors import BundleError
from export_tools.draft import VariantDraft
from export_tools.encoder.config import CONFIG_FILE, Task, read_json
from export_tools.encoder.export import build_variant, encoder_facts
from export_tools.gate.limits import ENCODER_LIMITS, EncoderLimits, enforce
from export_tools.gate.measures import agreement, cosines
from export_tools.gate.source import encoder_outputs
from export_tools.samples import tokenize

ROWS_PER_RUN = 32
COMPANY_ROWS = 64
SOURCE_ROWS = 24


def gate_encoder(
    checkpoint: Path,
    directory: Path,
    draft: VariantDraft,
    *,
    limits: EncoderLimits | None = None,
) -> dict[str, Any]:
    """Check one variant in `directory`; returns limits and figures for the manifest.

    Compares with the float32 graph of the same checkpoint, with itself in other company, and
    with the source implementation where that is installed. Raises `BundleError` when a figure
    misses its limit. A native graph is held to the same limits where this machine can run it.
    Costs one float32 export to a temporary directory and about 500 short runs a graph.
    """
    contract = draft.contract
    if not isinstance(contract, EncoderGraph):
        raise BundleError(draft.graph, f"{contract.type} is no encoder graph")
    task: Task = "classify" if contract.pooling == "none" else "embed"
    facts = encoder_facts(checkpoint, task)
    pad = read_json(checkpoint / CONFIG_FILE).get("pad_token_id") or 0
    batch = tokenize(checkpoint, facts.context)

    def load(graph: Path, *, native: bool = False) -> EncoderSession:
        return open_encoder(graph, contract, max_len=facts.context, pad_token_id=pad, native=native)

    def judge(model: EncoderModel) -> dict[str, float | None]:
        outputs = run_all(model, batch)
        return {
            "cosine_p1": float(np.quantile(cosines(outputs, reference), 0.01)),
            "agreement": agreement(outputs, reference) if task == "classify" else None,
            "company_cosine": company_cosine(model, batch[:COMPANY_ROWS]),
        }

    model = load(directory / draft.graph)
    with tempfile.TemporaryDirectory(prefix="edge-export-") as name:
        if draft.name == "fp32":
            reference = run_all(model, batch)
        else:
            plain = build_variant(checkpoint, Path(name), "fp32", task=task)
            reference = run_all(load(Path(name) / plain.graph), batch)
    source = encoder_outputs(checkpoint, contract, batch[:SOURCE_ROWS])
    figures = {
        **judge(model),
        "source_cosine": None
        if source is None
        else float(cosines(reference[: len(source)], source).min()),
    }
    wanted = limits or ENCODER_LIMITS[draft.dtype]
    report = enforce(draft.graph, wanted, figures)
    if draft.native_graph is not None and native_operators_run():
        native = judge(load(directory / draft.native_graph, native=True))
        report["native"] = enforce(draft.native_graph, wanted, native)["figures"]
    return {**report, "texts": len(batch), "source_compared": source is not None}


def run_all(model: EncoderModel, batch: Sequence[Sequence[int]]) -> FloatArray:
    """Outputs of every row, in order, in runs of rows of similar length."""
    order = sorted(range(len(batch)), key=lambda index: len(batch[index]))
    outputs = np.empty((len(batch), model.width), np.float32)
    for start in range(0, len(order), ROWS_PER_RUN):
        rows = order[start : start + ROWS_PER_RUN]
        outputs[rows] = model.run([batch[index] for index in rows])
    return outputs


def company_cosine(model: EncoderModel, batch: Sequence[Sequence[int]]) -> float:
    """Lowest cosine of a row run alone and run beside the others and an outlier.

    The outlier is a long row of one token after another from the batch, shuffled and repeated:
    nothing a model has seen, so its activations are far from ordinary.
    """
    tokens = np.array(sorted({token for row in batch for token in row}))
    generator = np.random.default_rng(0)
    outlier = generator.choice(tokens, min(model.max_len, 128)).tolist()
    alone = np.concatenate([model.run([row]) for row in batch])
    together = model.run([outlier, *batch])[1:]
    return float(cosines(alone, together).min())
