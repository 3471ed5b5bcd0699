"""The operators inside onnxruntime: right, refused when misused, close to the portable graph."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.engine import native
from tests.support.native import expected

onnxruntime_errors = (
    ort.capi.onnxruntime_pybind11_state.InvalidArgument,
    ort.capi.onnxruntime_pybind11_state.Fail,
    ort.capi.onnxruntime_pybind11_state.RuntimeException,
)


@pytest.fixture(scope="module")
def library() -> Path:
    verdict = native.examine(native.LIBRARY)
    if verdict.path is None:
        pytest.skip(f"NATIVE OPERATORS NOT TESTED: {verdict.reason}")
    return verdict.path


def session(
    library: Path,
    op: str,
    constants: Sequence[np.ndarray],
    *,
    rank: int = 2,
    threads: int = 2,
    constant: bool = True,
    **attributes: float,
) -> ort.InferenceSession:
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(op, ["x", *names], ["y"], domain=native.DOMAIN, **attributes)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)]
    tensors = [numpy_helper.from_array(v, n) for v, n in zip(constants, names, strict=True)]
    if not constant:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    graph = helper.make_graph([node], "g", inputs, [output], tensors if constant else [])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(native.DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return load(library, model, threads)


def load(library: Path, model: onnx.ModelProto, threads: int = 2) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def layer(seed: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-127, 128, (k, n)).astype(np.int8)
    scale = rng.uniform(1e-4, 1e-2, n).astype(np.float32)
    return weights, scale, rng.standard_normal(n).astype(np.float32)


def rows(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("m", [0, 1, 7, 14, 15, 100])
def test_linear_equals_numpy(library: Path, m: int, threads: int) -> None:
    weights, scale, bias = layer(1, 200, 333)
    x = rows(2, m, 200)
    (got,) = session(library, "RowLinear", [weights, scale, bias], threads=threads).run(
        None, {"x": x}
    )
    np.testing.assert_array_equal(got, expected(x, weights, scale, bias))


@pytest.mark.parametrize("shape", [(200,), (3, 200), (2, 3, 200), (2, 0, 200), (2, 1, 3, 200)])
def test_leading_dimensions_are_kept(library: Path, shape: tuple[int, ...]) -> None:
    weights, scale, _ = layer(3, 200, 40)
    x = rows(4, *shape)
    run = session(library, "RowLinear", [weights, scale], rank=len(shape))
    (got,) = run.run(None, {"x": x})
    want = expected(x.reshape(-1, 200), weights, scale).reshape(*shape[:-1], 40)
    np.testing.assert_array_equal(got, want)


def test_transposed_weights_are_read_by_rows(library: Path) -> None:
    weights, scale, _ = layer(5, 96, 150)
    x = rows(6, 5, 96)
    table = np.ascontiguousarray(weights.T)
    (got,) = session(library, "RowLinear", [table, scale], transposed=1).run(None, {"x": x})
    np.testing.assert_array_equal(got, expected(x, weights, scale))


@pytest.mark.parametrize("m", [1, 40])
def test_gated_linear_equals_its_parts(library: Path, m: int) -> None:
    gate, gate_scale, gate_bias = layer(7, 128, 100)
    up, up_scale, up_bias = layer(8, 128, 100)
    x = rows(9, m, 128)
    pairs = ((gate, up), (gate_scale, up_scale), (gate_bias, up_bias))
    constants = [np.concatenate(pair, axis=-1) for pair in pairs]
    (got,) = session(library, "RowGatedLinear", constants).run(None, {"x": x})
    g = expected(x, gate, gate_scale, gate_bias).astype(np.float64)
    want = g / (1 + np.exp(-g)) * expected(x, up, up_scale, up_bias)
    np.testing.assert_allclose(got, want, rtol=2e-6)


def test_many_callers_share_one_session(library: Path) -> None:
    weights, scale, _ = layer(10, 256, 256)
    run = session(library, "RowLinear", [weights, scale])
    inputs = [rows(20 + i, 1 + 9 * i, 256) for i in range(6)]
    wrong: list[int] = []

    def work(index: int) -> None:
        want = expected(inputs[index], weights, scale)
        for _ in range(20):
            (got,) = run.run(None, {"x": inputs[index]})
            if not np.array_equal(got, want):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def portable(weights: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """The same layer in onnxruntime's own operators, as the exporter writes it."""
    step = np.array(1 / 127, np.float32)
    constants = {
        "axis": np.array([-1], np.int64),
        "step": step,
        "zero": np.array(128, np.uint8),
        "w": weights,
        "scale": scale,
        "bias": bias,
    }
    ms = "com.microsoft"
    nodes = [
        helper.make_node("Abs", ["x"], ["abs"]),
        helper.make_node("ReduceMax", ["abs", "axis"], ["peak"], keepdims=1),
        helper.make_node("Div", ["x", "peak"], ["unit"]),
        helper.make_node("QuantizeLinear", ["unit", "step", "zero"], ["q"]),
        helper.make_node(
            "MatMulIntegerToFloat", ["q", "w", "step", "scale", "zero"], ["z"], domain=ms
        ),
        helper.make_node("Mul", ["z", "peak"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "portable",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(ms, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("m", [1, 9, 50])
def test_the_portable_graph_gives_the_same(library: Path, m: int) -> None:
    """Seven-bit weights, so that the portable operator is exact on every processor."""
    weights, scale, bias = layer(30, 320, 200)
    weights //= 2
    x = rows(31, m, 320)
    (want,) = load(library, portable(weights, scale, bias)).run(None, {"x": x})
    (got,) = session(library, "RowLinear", [weights, scale, bias]).run(None, {"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "constants", "said"),
    [
        ("RowLinear", [(8, 4), 5], "scale and bias must be float32"),
        ("RowLinear", [(8, 4), 4, 3], "scale and bias must be float32"),
        ("RowGatedLinear", [(8, 5), 5], "as many gates as others"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    library: Path, op: str, constants: list[tuple[int, int] | int], said: str
) -> None:
    arrays = [
        np.zeros(shape, np.int8) if isinstance(shape, tuple) else np.zeros(shape, np.float32)
        for shape in constants
    ]
    with pytest.raises(onnxruntime_errors, match=said):
        session(library, op, arrays)


def test_codes_out_of_range_are_refused(library: Path) -> None:
    weights, scale, _ = layer(42, 8, 4)
    with pytest.raises(onnxruntime_errors, match="zero must be from 0 to 128"):
        session(library, "RowLinear", [weights, scale], zero=129)


def test_one_sided_rows_use_their_attributes(library: Path) -> None:
    weights, scale, _ = layer(43, 64, 48)
    x = np.maximum(rows(44, 20, 64), np.float32(-0.17))
    run = session(library, "RowLinear", [weights, scale], zero=64, levels=191, floor=0.5)
    (got,) = run.run(None, {"x": x})
    np.testing.assert_array_equal(got, expected(x, weights, scale, zero=64, levels=191, floor=0.5))


def test_weights_that_are_no_constants_are_refused(library: Path) -> None:
    weights, scale, _ = layer(40, 8, 4)
    with pytest.raises(onnxruntime_errors, match="must be initializers"):
        session(library, "RowLinear", [weights, scale], constant=False)


def test_rows_of_another_width_are_refused(library: Path) -> None:
    weights, scale, _ = layer(41, 8, 4)
    run = session(library, "RowLinear", [weights, scale])
    with pytest.raises(onnxruntime_errors, match="must be 8 wide"):
        run.run(None, {"x": np.zeros((2, 7), np.float32)})
