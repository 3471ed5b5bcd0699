"""Structure and behaviour of decoder graphs that need no reference implementation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_runtime.core import StepRow
from edge_runtime.engine.packing import pack
from export_tools.decoder import build_variant
from export_tools.decoder.config import parse_config
from export_tools.decoder.graph import build_decoder
from export_tools.graph import PAGE_BYTES
from export_tools.quant import Float32, Int8Rows, NBits, QuantPlan
from export_tools.weights import Checkpoint
from tests.support.decoders import (
    TINY_VOCAB,
    GraphRunner,
    random_tensors,
    run_chunks,
    tiny_config,
    write_checkpoint,
)

OUTLIER = 7
PROMPTS = ([3, 5, 8, 13, 21, 34, 55, 89], [OUTLIER] * 6, [100, 101, 102, 103, OUTLIER])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in which one token's embedding holds an enormous channel."""
    tensors = random_tensors(tiny_config(num_hidden_layers=3))
    tensors["model.embed_tokens.weight"][OUTLIER, 3] = 60.0
    return write_checkpoint(tmp_path_factory.mktemp("outlier"), tensors, num_hidden_layers=3)


@pytest.mark.parametrize("variant", ["fp32", "int8", "int8-7bit", "int8-blocks", "int4"])
def test_a_neighbour_with_outliers_changes_nothing(
    checkpoint: Path, tmp_path: Path, variant: str
) -> None:
    graph = tmp_path / build_variant(checkpoint, tmp_path, variant).graph
    chunks = [(3, 6, 1), (1, 0, 2), (4, 0, 2)]
    alone = GraphRunner(graph, slots=1, capacity=32)
    expected = run_chunks(alone, PROMPTS[:1], [chunk[:1] for chunk in chunks])[0]
    found = run_chunks(GraphRunner(graph, slots=3, capacity=32), PROMPTS, chunks)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_a_reused_slot_forgets_its_last_owner(checkpoint: Path, tmp_path: Path) -> None:
    graph = tmp_path / build_variant(checkpoint, tmp_path, "int8").graph
    fresh = GraphRunner(graph, slots=1, capacity=32)
    used = GraphRunner(graph, slots=1, capacity=32)
    used.step([[9] * 20], [0])
    expected, found = fresh.step([PROMPTS[0]], [0]), used.step([PROMPTS[0]], [0])
    np.testing.assert_array_equal(found, expected)


def test_only_asked_rows_get_logits(checkpoint: Path, tmp_path: Path) -> None:
    graph = tmp_path / build_variant(checkpoint, tmp_path, "int8").graph
    every = GraphRunner(graph, slots=2, capacity=32).step([PROMPTS[0], [4]], [0, 0])
    some = GraphRunner(graph, slots=2, capacity=32).step([PROMPTS[0], [4]], [0, 0], [7, 8])
    none = GraphRunner(graph, slots=2, capacity=32).step([PROMPTS[0], [4]], [0, 0], [])
    np.testing.assert_allclose(some, every[[7, 8]], atol=1e-5, rtol=0)
    assert none.shape == (0, TINY_VOCAB)


def test_the_last_position_of_the_context_survives_a_padded_chunk(tmp_path: Path) -> None:
    """A short row beside a long chunk: its padding reaches beyond the context."""
    source = write_checkpoint(tmp_path / "source", max_position_embeddings=64)
    graph = tmp_path / build_variant(source, tmp_path, "fp32").graph
    tokens = [index % TINY_VOCAB for index in range(64)]
    alone = GraphRunner(graph, slots=1, capacity=64 + 1)
    company = GraphRunner(graph, slots=2, capacity=64 + 32)
    expected = run_chunks(alone, [tokens], [(63,), (1,)])[0][-1]
    found = run_chunks(company, [tokens, tokens[:32]], [(63, 0), (1, 32)])[0][-1]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_a_layer_costs_no_more_nodes_than_planned(checkpoint: Path, tmp_path: Path) -> None:
    """Nodes are the price of a one-token step; more of them need a reason."""
    counts = {}
    for variant in ("fp32", "int8", "int4"):
        draft = build_variant(checkpoint, tmp_path, variant)
        model = onnx.load(tmp_path / draft.graph, load_external_data=False)
        counts[variant] = Counter(
            node.op_type for node in model.graph.node if node.name.startswith("layers.1.")
        )
    assert sum(counts["fp32"].values()) == 12
    assert sum(counts["int4"].values()) == 12
    assert sum(counts["int8"].values()) == 33
    assert counts["int8"]["QuantizeLinear"] == 4  # qkv, o, gate_up, down
    assert counts["int8"]["SkipSimplifiedLayerNormalization"] == 2


def test_inputs_and_outputs_are_the_contract(checkpoint: Path, tmp_path: Path) -> None:
    draft = build_variant(checkpoint, tmp_path, "int8")
    model = onnx.load(tmp_path / draft.graph, load_external_data=False)
    shapes = {
        item.name: (
            item.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim],
        )
        for item in (*model.graph.input, *model.graph.output)
    }
    int64, int32, float32 = onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT
    kv = (float32, ["B", 2, "C", 16])
    expected = {
        "input_ids": (int64, ["T"]),
        "pad_index": (int64, ["B", "S"]),
        "unpad_index": (int64, ["T"]),
        "query_seqlens": (int32, ["B"]),
        "seqlens_k": (int32, ["B"]),
        "total_len": (int32, [1]),
        "logits_index": (int64, ["L"]),
        "logits": (float32, ["L", TINY_VOCAB]),
    }
    for layer in range(3):
        for part in ("key", "value"):
            expected[f"past_key_values.{layer}.{part}"] = kv
            expected[f"present.{layer}.{part}"] = kv
    assert shapes == expected
    assert (model.ir_version, model.opset_import[0].version) == (10, 21)


def test_weights_lie_page_aligned_in_one_file(checkpoint: Path, tmp_path: Path) -> None:
    draft = build_variant(checkpoint, tmp_path, "int8")
    model = onnx.load(tmp_path / draft.graph, load_external_data=False)
    external = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.external_data
    ]
    assert {draft.graph, "int8/model.onnx.data"} <= set(draft.files)
    assert {entry["location"] for entry in external} == {"model.onnx.data"}
    assert all(int(entry["offset"]) % PAGE_BYTES == 0 for entry in external)
    assert draft.size_bytes == sum((tmp_path / file).stat().st_size for file in draft.files)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    """The head and the embedding share their bytes in every format."""
    sizes = {}
    for tied in (True, False):
        source = write_checkpoint(
            tmp_path / f"source-{tied}", num_hidden_layers=1, tie_word_embeddings=tied
        )
        for variant in ("fp32", "int8", "int4"):
            draft = build_variant(source, tmp_path / str(tied), variant)
            sizes[tied, variant] = draft.size_bytes
    for variant, width in (("fp32", 4), ("int8", 1), ("int4", 1)):
        assert sizes[False, variant] - sizes[True, variant] >= TINY_VOCAB * 64 * width


def test_a_plan_gives_units_their_own_format(checkpoint: Path, tmp_path: Path) -> None:
    plan = QuantPlan(Int8Rows(), {"layers.*.down": NBits(8), "layers.0.qkv": Float32()})
    config = parse_config(tiny_config(num_hidden_layers=3))
    path = tmp_path / "mixed.onnx"
    build_decoder(Checkpoint(checkpoint), config, plan, path)
    nodes = {
        node.name: node.op_type for node in onnx.load(path, load_external_data=False).graph.node
    }
    assert nodes["layers.0.qkv"] == "Gemm"
    assert nodes["layers.1.qkv"] == "MatMulIntegerToFloat"
    assert {nodes[f"layers.{layer}.down"] for layer in range(3)} == {"MatMulNBits"}
    reference = tmp_path / build_variant(checkpoint, tmp_path, "fp32").graph
    expected = GraphRunner(reference, slots=1, capacity=32).step([PROMPTS[0]], [0])
    found = GraphRunner(path, slots=1, capacity=32).step([PROMPTS[0]], [0])
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def test_a_row_of_zeros_gives_zeros(tmp_path: Path) -> None:
    """A zero row has no scale; it must not become a row of NaN."""
    tensors = random_tensors(tiny_config())
    tensors["model.embed_tokens.weight"][11] = 0.0
    for name in ("mlp.down_proj", "self_attn.o_proj"):
        for layer in range(2):
            tensors[f"model.layers.{layer}.{name}.weight"][:] = 0.0
    source = write_checkpoint(tmp_path / "source", tensors)
    graph = tmp_path / build_variant(source, tmp_path, "int8").graph
    logits = GraphRunner(graph, slots=1, capacity=16).step([[11, 12]], [0])
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits[0], np.zeros(TINY_VOCAB, np.float32))


def test_decode_rows_keep_their_bits_beside_a_prompt_chunk(tmp_path: Path) -> None:
    """A last bit of attention becomes whole steps in the next quantised layer.

    At S = 1 the attention kernel sums in another order than at S > 1, so steps of single tokens
    are padded to two, by the engine as by `GraphRunner`.
    """
    source = write_checkpoint(tmp_path / "source", num_hidden_layers=6, head_dim=64)
    graph = tmp_path / build_variant(source, tmp_path, "int8").graph
    tokens = [(place * 37) % TINY_VOCAB for place in range(40)]
    steps = [(1, 2)] * len(tokens)
    beside = run_chunks(GraphRunner(graph, 2, 128), [tokens, [OUTLIER] * 80], steps)[0]
    alone = run_chunks(GraphRunner(graph, 1, 128), [tokens], [(1,)] * len(tokens))[0]
    np.testing.assert_array_equal(beside, alone)


def test_the_engine_pads_single_tokens_as_the_test_above_does() -> None:
    run = pack([StepRow(1, (5,), 9, True)], [0])
    assert run.pad_index.shape == (1, 2)
    assert run.unpad_index.tolist() == [0]
