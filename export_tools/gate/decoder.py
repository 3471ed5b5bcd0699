"""The gate of generating models."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.bundle.manifest import DecoderGraph
from edge_runtime.core import DecoderModel, FloatArray, StepPlan, StepRow
from edge_runtime.engine.offline import native_operators_run, open_decoder
from edge_runtime.errors import BundleError
from export_tools.draft import VariantDraft
from export_tools.gate.limits import DECODER_LIMITS, DecoderLimits, enforce
from export_tools.gate.measures import mean_kl, top1_where_decided
from export_tools.gate.source import decoder_logits
from export_tools.samples import tokenize

SLOTS = 8
ROWS = 32
MAX_TOKENS = 24
SOURCE_ROWS = 4

Row = Sequence[int]


def gate_decoder(
    checkpoint: Path,
    directory: Path,
    draft: VariantDraft,
    *,
    limits: DecoderLimits | None = None,
) -> dict[str, Any]:
    """Check one variant in `directory`; returns limits and figures for the manifest.

    Compares next-token distributions with the float32 graph of the same checkpoint, logits
    alone and in company, and the float32 graph with the source implementation where that is
    installed. Raises `BundleError` when a figure misses its limit. A native graph is held to the
    same limits where this machine can run it. Costs one float32 export to a temporary directory,
    memory for one model at a time, and about 100 steps of each.
    """
    from export_tools.decoder import build_variant

    contract = draft.contract
    if not isinstance(contract, DecoderGraph):
        raise BundleError(draft.graph, f"{contract.type} is no decoder graph")
    batch = [row for row in tokenize(checkpoint, MAX_TOKENS) if len(row) > 1]
    batch = batch[:: max(1, len(batch) // ROWS)][:ROWS]
    runs = [_run(directory / draft.graph, contract, batch, native=False)]
    if draft.native_graph is not None and native_operators_run():
        runs.append(_run(directory / draft.native_graph, contract, batch, native=True))
    reference = runs[0].outputs
    if draft.name != "fp32":
        with tempfile.TemporaryDirectory(prefix="edge-export-") as name:
            plain = build_variant(checkpoint, Path(name), "fp32")
            reference = _run(Path(name) / plain.graph, contract, batch, native=False).outputs
    source = decoder_logits(checkpoint, batch[:SOURCE_ROWS])
    error = None if source is None else _largest(reference[: len(source)], source)
    wanted = limits or DECODER_LIMITS[draft.dtype]
    portable, *native = [run.figures(reference) for run in runs]
    report = enforce(draft.graph, wanted, {**portable, "source_error": error})
    if draft.native_graph is not None and native:
        report["native"] = enforce(draft.native_graph, wanted, native[0])["figures"]
    positions = sum(len(row) for row in batch)
    return {**report, "positions": positions, "source_compared": source is not None}


@dataclass(frozen=True, slots=True)
class _Run:
    """What one graph gave; the model itself is gone, since the next one needs its memory."""

    outputs: list[FloatArray]
    company_error: float

    def figures(self, reference: Sequence[FloatArray]) -> dict[str, float | None]:
        """Figures against the float32 graph."""
        wanted, got = np.concatenate(reference), np.concatenate(self.outputs)
        return {
            "mean_kl": mean_kl(wanted, got),
            "top1": top1_where_decided(wanted, got),
            "company_error": self.company_error,
        }


def _run(graph: Path, contract: DecoderGraph, batch: Sequence[Row], *, native: bool) -> _Run:
    model = open_decoder(
        graph,
        contract,
        slots=SLOTS,
        max_len=2 * MAX_TOKENS,
        max_chunk=MAX_TOKENS,
        native=native,
    )
    return _Run(forced_logits(model, batch), company_error(model, batch[: SLOTS - 1]))


def forced_logits(model: DecoderModel, batch: Sequence[Row]) -> list[FloatArray]:
    """Logits [len(row), vocab] after each token of each row, fed token by token.

    Rows share steps, a slot each, as they do when the daemon decodes.
    """
    results: list[FloatArray] = []
    for start in range(0, len(batch), model.slots):
        group = batch[start : start + model.slots]
        found = [np.empty((len(row), model.vocab_size), np.float32) for row in group]
        for place in range(max(map(len, group))):
            active = [slot for slot, row in enumerate(group) if place < len(row)]
            rows = [StepRow(slot, (group[slot][place],), place, True) for slot in active]
            logits = model.step(StepPlan(tuple(rows)))
            for slot, values in zip(active, logits, strict=True):
                found[slot][place] = values
        results += found
    return results


def company_error(model: DecoderModel, batch: Sequence[Row]) -> float:
    """Largest difference of a row's last logits when run alone and when run beside others.

    Prompt chunks and single tokens share steps, and one slot holds an outlier: tokens in an
    order that no text has. Needs one slot more than there are rows.
    """
    alone = np.stack([_alone(model, row) for row in batch])
    tokens = sorted({token for row in batch for token in row})
    outlier = np.random.default_rng(0).choice(tokens, model.max_chunk).tolist()
    last = model.slots - 1
    even, odd = range(0, len(batch), 2), range(1, len(batch), 2)
    together = np.empty_like(alone)
    model.step(StepPlan((*_chunks(batch, even), StepRow(last, outlier[:-2], 0, False))))
    neighbour = StepRow(last, outlier[-2:-1], len(outlier) - 2, False)
    rows = (*_ends(batch, even), *_chunks(batch, odd), neighbour)
    together[list(even)] = model.step(StepPlan(rows))
    if odd:
        neighbour = StepRow(last, outlier[-1:], len(outlier) - 1, False)
        together[list(odd)] = model.step(StepPlan((*_ends(batch, odd), neighbour)))
    return float(np.abs(alone - together).max())


def _alone(model: DecoderModel, row: Row) -> FloatArray:
    model.step(StepPlan(_chunks([row], range(1))))
    logits: FloatArray = model.step(StepPlan(_ends([row], range(1))))[0].copy()
    return logits


def _chunks(batch: Sequence[Row], which: range) -> tuple[StepRow, ...]:
    """All but the last token of some rows."""
    return tuple(StepRow(slot, tuple(batch[slot][:-1]), 0, False) for slot in which)


def _ends(batch: Sequence[Row], which: range) -> tuple[StepRow, ...]:
    """The last token of some rows, whose logits are wanted."""
    return tuple(
        StepRow(slot, tuple(batch[slot][-1:]), len(batch[slot]) - 1, True) for slot in which
    )


def _largest(left: Sequence[FloatArray], right: Sequence[FloatArray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))
