"""How large each channel of a norm's output gets on real sentences.

Trained encoders keep a few channels ten times wider than the rest, mostly on the first and the
last token. One scale a row then spends its 8 bits on them. Knowing the widest values of each
channel, the exporter divides the channels and multiplies the weights behind them (SmoothQuant):
the product is the same, the row is flatter.

The plain int8 graph measures it: its values are within a few percent of the float ones, it is
small, and nothing else is needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_runtime.engine.offline import GraphRunner, packed_feeds
from export_tools.encoder.config import EncoderConfig
from export_tools.encoder.graph import FLOAT, OPSET, EncoderGraph, declare_inputs
from export_tools.encoder.weights import EncoderWeights
from export_tools.graph import GraphBuilder
from export_tools.quant import QuantPlan
from export_tools.quant.rows import FloatArray
from export_tools.weights import Checkpoint

ROWS_PER_RUN = 32


def norm_peaks(
    checkpoint: Path, config: EncoderConfig, plan: QuantPlan, batch: Sequence[Sequence[int]]
) -> dict[str, FloatArray]:
    """Largest magnitudes [hidden] of each norm's output over `batch`, by the norm's prefix.

    Costs one export by `plan` to a temporary directory and one run over the batch.
    """
    peaks: dict[str, FloatArray] = {}
    with tempfile.TemporaryDirectory(prefix="edge-export-") as name:
        path = Path(name) / "peaks.onnx"
        norms = _write(path, EncoderWeights(config, Checkpoint(checkpoint)), plan)
        runner = GraphRunner(path)
        for start in range(0, len(batch), ROWS_PER_RUN):
            rows = batch[start : start + ROWS_PER_RUN]
            lengths = np.array([len(row) for row in rows])
            ids = np.concatenate([np.asarray(row, np.int64) for row in rows])
            found = runner.run(packed_feeds(ids, lengths), [f"peak:{norm}" for norm in norms])
            for norm, value in zip(norms, found, strict=True):
                peaks[norm] = np.maximum(peaks.get(norm, value), value)
    return peaks


def _write(path: Path, weights: EncoderWeights, plan: QuantPlan) -> list[str]:
    """Write a graph whose outputs are the peaks; returns the norms' prefixes."""
    with GraphBuilder(path, "peaks", opset=OPSET) as graph:
        ids, packing = declare_inputs(graph)
        emit = EncoderGraph(graph, weights, plan)
        x = emit.embeddings(ids, packing)
        for index in range(weights.config.layers):
            x = emit.layer(index, x, packing, first_only=False)
        tokens = graph.constant("tokens", np.array([0], np.int64))
        for norm, value in emit.norms.items():
            magnitude = graph.node("Abs", [value], f"magnitude:{norm}")
            graph.node("ReduceMax", [magnitude, tokens], f"peak:{norm}", keepdims=0)
            graph.output(f"peak:{norm}", FLOAT, [weights.config.hidden])
        graph.save()
    return list(emit.norms)
