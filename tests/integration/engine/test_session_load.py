"""Sessions load, run and fail in words of this project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edge_runtime.engine.session import engine_errors, make_session
from edge_runtime.errors import BundleError, EngineError


def write_graph(path: Path, op: str = "Abs", domain: str = "", **external: str) -> Path:
    nodes = [helper.make_node(op, ["x"], ["y"], domain=domain)]
    weights = []
    if external:
        nodes.append(helper.make_node("Add", ["y", "w"], ["z"]))
        weights.append(
            TensorProto(name="w", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
        )
        for key, value in external.items():
            weights[0].external_data.add(key=key, value=value)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, [2])],
        weights,
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_weights_lie_beside_the_graph(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(np.array([1, 2], np.float32).tobytes())
    graph = write_graph(tmp_path / "m.onnx", location="w.data", offset="0", length="8")
    (result,) = make_session(graph, threads=1).run(None, {"x": np.array([-1, 5], np.float32)})
    np.testing.assert_array_equal(result, [2, 7])


def test_idle_threads_sleep_unless_asked(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "m.onnx")
    key = "session.intra_op.allow_spinning"
    for spinning, value in ((False, "0"), (True, "1")):
        options = make_session(graph, threads=2, spinning=spinning).get_session_options()
        assert options.get_session_config_entry(key) == value
        assert options.intra_op_num_threads == 2


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone\.onnx: no such graph"):
        make_session(tmp_path / "gone.onnx", threads=1)


def test_bytes_that_are_no_graph_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="cannot load it"):
        make_session(tmp_path / "m.onnx", threads=1)


def test_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "m.onnx", "NoSuchOperator", "com.microsoft")
    with pytest.raises(BundleError, match="NoSuchOperator"):
        make_session(graph, threads=1)


@pytest.mark.parametrize("location", ["gone.data", "../outside.data"])
def test_weights_that_are_missing_or_outside_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "outside.data").write_bytes(b"\0" * 8)
    folder = tmp_path / "bundle"
    folder.mkdir()
    graph = write_graph(folder / "m.onnx", location=location, offset="0", length="8")
    with pytest.raises(BundleError):
        make_session(graph, threads=1)


def test_threads_below_one_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_session(write_graph(tmp_path / "m.onnx"), threads=0)


def test_a_failed_run_is_an_engine_error(tmp_path: Path) -> None:
    session: ort.InferenceSession = make_session(write_graph(tmp_path / "m.onnx"), threads=1)
    with pytest.raises(EngineError, match="encoder run failed"), engine_errors("encoder run"):
        session.run(None, {"x": np.zeros(3, np.float32)})
