"""Weight formats: the error of each entry is bounded, edge values survive, blocks add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from export_tools.graph import GraphBuilder
from export_tools.quant import (
    ArrayRows,
    Float32,
    Int8Rows,
    NBits,
    QuantPlan,
    StackedRows,
    quantize_blocks,
    quantize_rows,
    variant_spec,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("limit", [127, 63])
def test_int8_rows_err_by_half_a_step_at_most(limit: int) -> None:
    weight = RNG.standard_normal((7, 50)).astype(np.float32)
    weight[2] *= 1000
    values, scale = quantize_rows(weight, limit)
    assert values.dtype == np.int8
    assert int(np.abs(values.astype(int)).max()) == limit
    error = np.abs(values * scale[:, None] - weight)
    assert (error <= scale[:, None] * 0.5001).all()


def test_a_row_of_zeros_stays_zero() -> None:
    values, scale = quantize_rows(np.zeros((2, 4), np.float32))
    assert not values.any()
    assert np.isfinite(scale).all()


def unpack(codes: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], -1)
    zero = 1 << (bits - 1)
    values = (codes.astype(np.float32) - zero) * scale[..., None]
    return values.reshape(len(codes), -1)


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_err_by_a_step_at_most_and_keep_their_peak(bits: int) -> None:
    weight = RNG.standard_normal((5, 96)).astype(np.float32)
    codes, scale = quantize_blocks(weight, bits, 32)
    assert codes.shape == (5, 3, 32 * bits // 8)
    found = unpack(codes, scale, bits)
    step = np.abs(scale).repeat(32, axis=1)
    assert (np.abs(found - weight) <= step * 1.0001).all()
    peaks = np.abs(weight).reshape(5, 3, 32).argmax(axis=2) + 32 * np.arange(3)
    rows = np.arange(5)[:, None]
    np.testing.assert_allclose(found[rows, peaks], weight[rows, peaks], rtol=1e-6)


def test_a_ragged_last_block_is_padded_with_zeros() -> None:
    weight = RNG.standard_normal((2, 40)).astype(np.float32)
    codes, scale = quantize_blocks(weight, 8, 32)
    found = unpack(codes, scale, 8)
    assert codes.shape == (2, 2, 32)
    np.testing.assert_array_equal(found[:, 40:], 0)
    np.testing.assert_allclose(found[:, :40], weight, atol=float(np.abs(scale).max()))


def test_stacked_rows_follow_each_other() -> None:
    first, second = np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)
    stacked = StackedRows([ArrayRows(first), ArrayRows(second)])
    assert (stacked.rows, stacked.cols) == (3, 3)
    found = np.concatenate(list(stacked.blocks()))
    np.testing.assert_array_equal(found, np.concatenate([first, second]))
    with pytest.raises(ValueError, match="one width"):
        StackedRows([ArrayRows(first), ArrayRows(np.ones((1, 4), np.float32))])


def test_a_plan_takes_the_first_matching_pattern() -> None:
    plan = QuantPlan(Int8Rows(), {"layers.0.*": Float32(), "layers.*.down": NBits(8)})
    labels = [plan.format(unit).label for unit in ("layers.0.down", "layers.1.down", "head")]
    assert labels == ["fp32", "nbits8-b32", "int8"]
    assert plan.describe() == {
        "layers.0.*": "fp32",
        "layers.*.down": "nbits8-b32",
        "*": "int8",
    }


def test_int4_keeps_head_and_embedding_at_eight_bits() -> None:
    plan = variant_spec("int4").plan
    labels = {unit: plan.format(unit).label for unit in ("head", "embedding", "layers.3.qkv")}
    assert labels == {
        "head": "nbits8-b32",
        "embedding": "nbits8-b32",
        "layers.3.qkv": "nbits4-b32",
    }


def test_unknown_variants_name_the_known() -> None:
    with pytest.raises(UsageError, match="fp32, int8"):
        variant_spec("int2")


def test_blocks_that_do_not_fill_a_weight_are_refused(tmp_path: Path) -> None:
    builder = GraphBuilder(tmp_path / "g.onnx", "g")
    with builder as graph, pytest.raises(ValueError, match="shape needs 24"):
        graph.weight("w", np.float32, (2, 3), [np.zeros((1, 3), np.float32)])


def test_an_embedding_of_odd_width_names_the_way_out(tmp_path: Path) -> None:
    table = ArrayRows(np.ones((4, 40), np.float32))
    builder = GraphBuilder(tmp_path / "g.onnx", "g")
    with builder as graph, pytest.raises(ValueError, match="choose int8"):
        NBits(8).embedding(graph, "embedding", "ids", table)
