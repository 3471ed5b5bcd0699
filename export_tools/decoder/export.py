"""One variant of a decoder checkpoint, written to disk."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.bundle.manifest import DecoderGraph
from export_tools.decoder.config import DecoderConfig, parse_config, read_config
from export_tools.decoder.graph import build_decoder
from export_tools.decoder.tensors import check_tensors
from export_tools.draft import VariantDraft, native_graph
from export_tools.graph import IR_VERSION, OPSET
from export_tools.progress import Progress, SilentProgress
from export_tools.quant import variant_spec
from export_tools.weights import Checkpoint

ONNXRUNTIME_FLOOR = "1.32.0"
"""First release whose CPU attention takes `query_seqlens`."""


def build_variant(
    checkpoint: Path,
    out: Path,
    variant: str,
    progress: Progress | None = None,
    max_context: int | None = None,
) -> VariantDraft:
    """Export one variant into `out/<variant>/`.

    Raises `BundleError` when the checkpoint cannot be exported exactly, `UsageError` for an
    unknown variant. Nothing is read but headers before every check has passed.
    """
    listener = progress or SilentProgress()
    spec = variant_spec(variant)
    config = parse_config(read_config(checkpoint), max_context)
    source = Checkpoint(checkpoint, listener)
    check_tensors(config, source)
    listener.begin(f"writing {variant}", source.total_bytes)
    directory = out / variant
    directory.mkdir(parents=True, exist_ok=True)
    files = build_decoder(source, config, spec.plan, directory / "model.onnx")
    return VariantDraft(
        name=variant,
        dtype=spec.dtype,
        graph=f"{variant}/model.onnx",
        files=tuple(f"{variant}/{file.name}" for file in files),
        contract=graph_contract(config),
        onnxruntime_floor=ONNXRUNTIME_FLOOR,
        opset=OPSET,
        ir=IR_VERSION,
        cpu_features=spec.cpu_features,
        size_bytes=sum(file.stat().st_size for file in files),
        native_graph=native_graph(variant, files),
    )


def graph_contract(config: DecoderConfig) -> DecoderGraph:
    """The manifest's words for the graph's shapes."""
    windows = {window for window in config.windows if window is not None}
    return DecoderGraph(
        layers=config.layers,
        hidden_size=config.hidden,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab,
        sliding_window=max(windows) if windows and None not in config.windows else None,
    )
