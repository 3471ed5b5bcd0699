"""The graph in native operators answers as the portable one, over the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_runtime.bundle.manifest import DecoderGraph, EncoderGraph
from edge_runtime.bundle.pack import load_manifest, verify
from edge_runtime.core import StepPlan, StepRow
from edge_runtime.engine import native
from edge_runtime.engine.decoder import DecoderSession
from edge_runtime.engine.encoder import EncoderSession
from export_tools.build import Identity, Request, build
from export_tools.decoder import build_variant
from export_tools.decoder.config import parse_config, read_config
from export_tools.decoder.graph import DecoderBuilder
from export_tools.draft import VariantDraft
from export_tools.encoder.export import build_variant as build_encoder
from export_tools.graph import GraphBuilder
from export_tools.quant import Float32, Int8Rows, NativeRows, NBits, QuantPlan, native_plan
from export_tools.weights import Checkpoint
from tests.support import encoders
from tests.support.decoders import GraphRunner, run_chunks, write_checkpoint

# Seven-bit weights: the portable graph is then exact on every processor.
VARIANT = "int8-7bit"
PROMPTS = ([3, 5, 8, 13, 21, 34, 55, 89], [7] * 6, [100, 101, 102, 103, 7])
CHUNKS = [(3, 6, 1), (1, 0, 2), (4, 0, 2)]
BIASED: dict[str, Any] = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
NORMED: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 16,
}


@pytest.fixture(scope="module")
def library() -> Path:
    verdict = native.examine(native.LIBRARY)
    if verdict.path is None:
        pytest.skip(f"NATIVE GRAPHS NOT RUN: {verdict.reason}")
    return verdict.path


def native_file(root: Path, draft: VariantDraft) -> Path:
    assert draft.native_graph is not None
    return root / draft.native_graph


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": False}, BIASED, NORMED],
    ids=["tied", "untied", "biased", "normed"],
)
def test_a_native_decoder_gives_the_portable_logits(
    changes: dict[str, Any], library: Path, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "source", **changes)
    draft = build_variant(source, tmp_path, VARIANT)
    portable = GraphRunner(tmp_path / draft.graph, slots=3, capacity=32)
    other = GraphRunner(native_file(tmp_path, draft), slots=3, capacity=32, native=library)
    expected = run_chunks(portable, PROMPTS, CHUNKS)
    found = run_chunks(other, PROMPTS, CHUNKS)
    for want, got in zip(expected, found, strict=True):
        # Sums in another order can move an activation by one code of 127.
        scale = np.abs(want).max()
        np.testing.assert_allclose(got, want, atol=0.02 * scale)
        assert np.abs(got - want).mean() < 0.002 * scale


def test_a_native_decoder_keeps_a_row_from_its_company(library: Path, tmp_path: Path) -> None:
    draft = build_variant(write_checkpoint(tmp_path / "source"), tmp_path, VARIANT)
    graph = native_file(tmp_path, draft)
    alone = GraphRunner(graph, slots=1, capacity=32, native=library)
    expected = run_chunks(alone, PROMPTS[:1], [chunk[:1] for chunk in CHUNKS])[0]
    company = GraphRunner(graph, slots=3, capacity=32, native=library)
    found = run_chunks(company, PROMPTS, CHUNKS)[0]
    np.testing.assert_array_equal(found, expected)
    single = GraphRunner(graph, slots=1, capacity=32, native=library)
    by_token = run_chunks(single, PROMPTS[:1], [[1]] * len(PROMPTS[0]))[0]
    np.testing.assert_array_equal(by_token, expected)


@pytest.mark.parametrize("changes", [{}, BIASED, NORMED], ids=["plain", "biased", "normed"])
def test_packed_attention_alone_gives_the_portable_logits(
    changes: dict[str, Any], library: Path, tmp_path: Path
) -> None:
    """The rest of both graphs in float32, so that no code of an activation can flip."""
    source = write_checkpoint(tmp_path / "source", **changes)
    config, checkpoint = parse_config(read_config(source)), Checkpoint(source)
    found = []
    for packed in (False, True):
        path = tmp_path / f"packed-{packed}.onnx"
        with GraphBuilder(path, "decoder") as graph:
            plan = QuantPlan(Float32(), {})
            DecoderBuilder(graph, checkpoint, config, plan, packed=packed).build()
            graph.save()
        runner = GraphRunner(path, slots=3, capacity=32, native=library)
        found.append(run_chunks(runner, PROMPTS, CHUNKS))
    for want, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_native_session_runs_a_mixed_step_at_once(library: Path, tmp_path: Path) -> None:
    draft = build_variant(write_checkpoint(tmp_path / "source"), tmp_path, VARIANT)
    assert isinstance(draft.contract, DecoderGraph)
    graph = native_file(tmp_path, draft)
    rng = np.random.default_rng(1)
    prompts = [[int(t) for t in rng.integers(0, 300, size)] for size in (5, 150, 9)]
    alone, company = (
        DecoderSession(
            graph, draft.contract, slots=4, max_len=200, max_chunk=200, threads=2, native=True
        )
        for _ in range(2)
    )
    company.step(StepPlan((StepRow(0, prompts[0][:4], 0, False),)))
    step = StepPlan(
        (
            StepRow(3, prompts[2], 0, True),
            StepRow(0, prompts[0][4:], 4, True),
            StepRow(1, prompts[1], 0, True),
        )
    )
    got = company.step(step).copy()
    for row, prompt in zip(got, (prompts[2], prompts[0], prompts[1]), strict=True):
        want = alone.step(StepPlan((StepRow(2, prompt, 0, True),)))[0]
        np.testing.assert_array_equal(row, want)


def test_a_layer_is_few_nodes(tmp_path: Path) -> None:
    draft = build_variant(write_checkpoint(tmp_path / "source"), tmp_path, "int8")
    graph = onnx.load(native_file(tmp_path, draft), load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("RowGatedLinear") == kinds.count("PackedAttention") == 2
    assert kinds.count("RowLinear") == 7  # qkv, o and down of two layers, and the head
    assert not {"MatMulIntegerToFloat", "QuantizeLinear", "Split", "Transpose"} & set(kinds)


def test_the_weights_are_stored_once(tmp_path: Path) -> None:
    draft = build_variant(write_checkpoint(tmp_path / "source"), tmp_path, "int8")
    assert [Path(name).name for name in draft.files] == [
        "model.onnx",
        "model.onnx.data",
        "model-native.onnx",
    ]
    graphs = [
        onnx.load(path, load_external_data=False).graph
        for path in (tmp_path / draft.graph, native_file(tmp_path, draft))
    ]
    portable, other = ({item.name: item for item in graph.initializer} for graph in graphs)
    assert {name for name, item in other.items() if item.external_data} <= set(portable)
    for name, item in other.items():
        if item.external_data:
            assert item.SerializeToString() == portable[name].SerializeToString()


@pytest.mark.parametrize("labels", [(), encoders.LABELS], ids=["embed", "classify"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_native_encoder_gives_the_portable_output(
    labels: tuple[str, ...], activation: str, library: Path, tmp_path: Path
) -> None:
    source = encoders.write_checkpoint(tmp_path / "source", labels=labels, hidden_act=activation)
    draft = build_encoder(source, tmp_path, VARIANT)
    assert isinstance(draft.contract, EncoderGraph)
    batch = [[2, 9, 17, 3], [2, 5, 99, 120, 310, 42, 7, 3], [2, 3]]
    rows = []
    for graph in (tmp_path / draft.graph, native_file(tmp_path, draft)):
        session = EncoderSession(
            graph, draft.contract, max_len=60, threads=1, native="native" in graph.name
        )
        rows.append(session.run(batch))
    scale = np.abs(rows[0]).max()
    np.testing.assert_allclose(rows[1], rows[0], atol=0.02 * scale)


def test_a_bundle_names_its_native_graph(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    out = tmp_path / "bundle"
    request = Request(source, out, Identity("tiny"), variants=("int8", "fp32"))
    manifest = build(request, gate=lambda *_: {})
    verify(out, load_manifest(out))
    assert manifest.variant("int8").native_graph == "int8/model-native.onnx"
    assert "int8/model-native.onnx" in manifest.variant("int8").files
    assert manifest.variant("fp32").native_graph is None
    assert "native_graph" not in manifest.document()["variants"][1]


def test_only_plans_with_integer_rows_get_a_native_graph() -> None:
    assert native_plan(QuantPlan(Float32(), {"head": NBits(bits=8)})) is None
    mixed = native_plan(QuantPlan(NBits(bits=4), {"head": Int8Rows(reduce_range=True)}))
    assert mixed is not None
    assert mixed.format("head") == NativeRows(reduce_range=True)
    assert mixed.format("layers.0.o") == NBits(bits=4)


def test_a_weight_that_was_not_stored_cannot_be_shared(tmp_path: Path) -> None:
    with GraphBuilder(tmp_path / "model.onnx", "g") as first:
        first.constant("here", np.ones(3, np.float32))
    with GraphBuilder(tmp_path / "native.onnx", "g", over=first) as second:
        assert second.reuse("here") == "here"
        with pytest.raises(ValueError, match="no initializer gone"):
            second.reuse("gone")
