"""One variant of an encoder checkpoint, written to disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle.manifest import EncoderGraph as EncoderContract
from edge_runtime.errors import BundleError
from export_tools.draft import VariantDraft, native_graph
from export_tools.encoder.calibrate import norm_peaks
from export_tools.encoder.config import (
    CONFIG_FILE,
    EncoderConfig,
    Task,
    classifies,
    is_builtin,
    parse_config,
    read_json,
    read_labels,
)
from export_tools.encoder.graph import FLOAT, OPSET, EncoderGraph, declare_inputs
from export_tools.encoder.pooling import Pooling, max_tokens, read_pooling
from export_tools.encoder.weights import EncoderWeights, check_shapes
from export_tools.graph import IR_VERSION, GraphBuilder, native_path
from export_tools.progress import Progress, SilentProgress
from export_tools.quant import Int8Rows, QuantPlan, native_plan, variant_spec
from export_tools.quant.rows import FloatArray
from export_tools.samples import TOKENIZER_FILE, tokenize
from export_tools.weights import Checkpoint

ONNXRUNTIME_FLOOR = "1.32.0"
"""The release that every figure of these graphs was measured with."""


CALIBRATION_TOKENS = 64
"""Inputs are cut to this for calibration: the widest channels sit on the first tokens."""


@dataclass(frozen=True, slots=True)
class EncoderFacts:
    """What the manifest says of an encoder beside its graph. `labels` is empty for embeddings."""

    task: Task
    context: int
    labels: tuple[str, ...]


def encoder_facts(checkpoint: Path, task: Task | None = None) -> EncoderFacts:
    """Task, longest input in tokens and labels of a checkpoint. Reads small files only.

    `task` None picks classification when the checkpoint has a head for it.
    """
    config = read_json(checkpoint / CONFIG_FILE)
    chosen: Task = task or ("classify" if classifies(config) else "embed")
    if is_builtin(config):
        positions = parse_config(config).positions
    else:
        positions = _other_positions(config.get("max_position_embeddings"))
    labels = read_labels(config) if chosen == "classify" else ()
    return EncoderFacts(chosen, max_tokens(checkpoint, positions), labels)


def build_variant(
    checkpoint: Path,
    out: Path,
    variant: str,
    *,
    task: Task | None = None,
    progress: Progress | None = None,
) -> VariantDraft:
    """Export one variant into `out/<variant>/`.

    Raises `BundleError` when the checkpoint cannot be exported exactly, `UsageError` for an
    unknown variant. Costs one pass over the weights (two over the attention outputs).
    """
    config = read_json(checkpoint / CONFIG_FILE)
    facts = encoder_facts(checkpoint, task)
    if not is_builtin(config):
        from export_tools.encoder.other import build_other  # needs torch; only such models do

        return build_other(checkpoint, out, variant, facts.task, progress)
    spec = variant_spec(variant)
    listener = progress or SilentProgress()
    source = Checkpoint(checkpoint, listener)
    parsed = parse_config(config)
    check_shapes(EncoderWeights(parsed, source))
    peaks = _peaks(checkpoint, parsed, spec.plan, facts.context)
    weights = EncoderWeights(parsed, source, peaks)
    pooling = read_pooling(checkpoint)
    listener.begin(f"writing {variant}", source.total_bytes)
    directory = out / variant
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "model.onnx"
    with GraphBuilder(path, "encoder", opset=OPSET) as graph:
        contract = _emit(graph, weights, spec.plan, facts, pooling)
        files = graph.save()
    native = native_plan(spec.plan)
    if native is not None:
        with GraphBuilder(native_path(path), "encoder", opset=OPSET, over=graph) as second:
            _emit(second, weights, native, facts, pooling)
            files += second.save()
    return VariantDraft(
        name=variant,
        dtype=spec.dtype,
        graph=f"{variant}/model.onnx",
        files=tuple(f"{variant}/{file.name}" for file in files),
        contract=contract,
        onnxruntime_floor=ONNXRUNTIME_FLOOR,
        opset=OPSET,
        ir=IR_VERSION,
        cpu_features=spec.cpu_features,
        size_bytes=sum(file.stat().st_size for file in files),
        native_graph=native_graph(variant, files),
    )


def _emit(
    graph: GraphBuilder,
    weights: EncoderWeights,
    plan: QuantPlan,
    facts: EncoderFacts,
    pooling: Pooling,
) -> EncoderContract:
    """Emit the whole graph; returns its contract."""
    classify = facts.task == "classify"
    first_only = classify or pooling.mode == "cls"
    config = weights.config
    ids, packing = declare_inputs(graph)
    emit = EncoderGraph(graph, weights, plan)
    x = emit.embeddings(ids, packing)
    for index in range(config.layers):
        last = index == config.layers - 1
        x = emit.layer(index, x, packing, first_only=first_only and last)
    if classify:
        value, width = emit.classify(x), len(facts.labels)
    else:
        value, width = x if first_only else emit.pool(x, packing), config.hidden
        value = emit.normalize(value) if pooling.normalize else value
    graph.nodes("Identity", [value], ["output"])
    graph.output("output", FLOAT, ["B", width])
    return EncoderContract(
        type="encoder-packed/1",
        width=width,
        pooling="none" if classify else pooling.mode,
        normalized=not classify and pooling.normalize,
    )


def _peaks(
    checkpoint: Path, config: EncoderConfig, plan: QuantPlan, context: int
) -> dict[str, FloatArray]:
    """Channel peaks for plans that quantise activations by the row; empty for the others.

    Without a tokenizer there is no text to measure on: such checkpoints are exported without.
    """
    if not isinstance(plan.default, Int8Rows) or not (checkpoint / TOKENIZER_FILE).is_file():
        return {}
    batch = tokenize(checkpoint, min(context, CALIBRATION_TOKENS))
    return norm_peaks(checkpoint, config, plan, batch)


def _other_positions(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise BundleError(
            CONFIG_FILE, f"max_position_embeddings = {value!r} is no positive integer"
        )
    return value
