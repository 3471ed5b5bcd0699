"""Encoders this exporter does not build itself: optimum's graph, our weights.

optimum traces the source model to an ordinary padded graph. Its nodes are copied one by one;
linear layers and large embeddings are written in the variant's weight format instead, so that
`int8` means the same per-row arithmetic everywhere. Pooling and normalisation are appended. The
result keeps the contract `encoder-padded/1`.

Needs torch, transformers and optimum (the `train` extra), unlike everything else here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.bundle.manifest import EncoderGraph as EncoderContract
from edge_runtime.errors import BundleError, UsageError
from export_tools.draft import VariantDraft, native_graph
from export_tools.encoder.config import Task
from export_tools.encoder.pooling import Pooling, read_pooling
from export_tools.graph import IR_VERSION, GraphBuilder, native_path
from export_tools.progress import Progress, SilentProgress
from export_tools.quant import Activation, ArrayRows, QuantPlan, native_plan, variant_spec

ONNXRUNTIME_FLOOR = "1.32.0"
MIN_TABLE_ROWS = 256
"""Smaller lookup tables (token types, relative positions) stay float32."""

_TASKS = {"embed": "feature-extraction", "classify": "text-classification"}
_INPUTS = ("input_ids", "attention_mask")
_OUTPUTS = {"embed": "last_hidden_state", "classify": "logits"}


def build_other(
    checkpoint: Path,
    out: Path,
    variant: str,
    task: Task,
    progress: Progress | None = None,
) -> VariantDraft:
    """Export one variant of any encoder that optimum knows into `out/<variant>/`.

    Raises `UsageError` when optimum is not installed and `BundleError` when the model cannot be
    traced or its graph has inputs that a text does not give. Holds the whole model in memory.
    """
    spec = variant_spec(variant)
    listener = progress or SilentProgress()
    pooling = read_pooling(checkpoint)
    with tempfile.TemporaryDirectory(prefix="edge-export-") as name:
        listener.begin(f"tracing {checkpoint.name}", 0)
        model = _trace(checkpoint, Path(name), task)
    directory = out / variant
    directory.mkdir(parents=True, exist_ok=True)
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    path, width = directory / "model.onnx", _width(model.graph, _OUTPUTS[task])
    with GraphBuilder(path, "encoder", opset=opset) as graph:
        _emit(graph, model.graph, spec.plan if spec.name != "fp32" else None, task, pooling)
        files = graph.save()
    native = native_plan(spec.plan)
    if native is not None:
        with GraphBuilder(native_path(path), "encoder", opset=opset, over=graph) as second:
            _emit(second, model.graph, native, task, pooling)
            files += second.save()
    return VariantDraft(
        name=variant,
        dtype=spec.dtype,
        graph=f"{variant}/model.onnx",
        files=tuple(f"{variant}/{file.name}" for file in files),
        contract=EncoderContract(
            type="encoder-padded/1",
            width=width,
            pooling="none" if task == "classify" else pooling.mode,
            normalized=task == "embed" and pooling.normalize,
        ),
        onnxruntime_floor=ONNXRUNTIME_FLOOR,
        opset=opset,
        ir=IR_VERSION,
        cpu_features=spec.cpu_features,
        size_bytes=sum(file.stat().st_size for file in files),
        native_graph=native_graph(variant, files),
    )


def _emit(
    graph: GraphBuilder,
    source: onnx.GraphProto,
    plan: QuantPlan | None,
    task: Task,
    pooling: Pooling,
) -> None:
    """Copy the traced graph and append pooling."""
    value = _Copy(graph, plan).nodes(source, _OUTPUTS[task])
    if task == "embed":
        value = _pool(graph, value, pooling)
    graph.nodes("Identity", [value], ["output"])
    graph.output("output", TensorProto.FLOAT, ["B", _width(source, _OUTPUTS[task])])


def _trace(checkpoint: Path, directory: Path, task: Task) -> onnx.ModelProto:
    """Trace the checkpoint with optimum; the graph comes back with weights in memory."""
    try:
        from optimum.exporters.onnx import main_export
    except ImportError as error:
        raise UsageError(
            "this encoder needs optimum: install edge-runtime[train] with a CPU torch",
            param="checkpoint",
        ) from error
    try:
        main_export(
            str(checkpoint),
            output=str(directory),
            task=_TASKS[task],
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            do_validation=False,
            no_post_process=True,
            library_name="transformers",
        )
    except Exception as error:  # optimum raises whatever the traced code raises
        raise BundleError(str(checkpoint), f"optimum cannot export it: {error}") from error
    model: onnx.ModelProto = onnx.load(directory / "model.onnx")
    return model


class _Copy:
    """Copies a traced graph into a builder, linear layers in a weight format."""

    def __init__(self, graph: GraphBuilder, plan: QuantPlan | None) -> None:
        self._graph = graph
        self._plan = plan
        self._constants: dict[str, npt.NDArray[Any]] = {}
        self._renamed: dict[str, str] = {}

    def nodes(self, source: onnx.GraphProto, wanted: str) -> str:
        """Copy inputs, constants and nodes; returns the value that stands for `wanted`."""
        self._constants = {item.name: numpy_helper.to_array(item) for item in source.initializer}
        self._inputs(source)
        for node in source.node:
            if node.op_type == "Identity" and node.input[0] in self._constants:
                self._constants[node.output[0]] = self._constants[node.input[0]]
            elif node.op_type == "Constant" and node.attribute[0].name == "value":
                value = numpy_helper.to_array(node.attribute[0].t)
                self._constants[node.output[0]] = value
            elif not self._replace(node):
                self._plain(node)
        return self._renamed.get(wanted, wanted)

    def _inputs(self, source: onnx.GraphProto) -> None:
        shape = ("B", "S")
        for name in _INPUTS:
            self._graph.input(name, TensorProto.INT64, shape)
        for item in source.input:
            if item.name == "token_type_ids":  # every text is of type 0
                zero = self._graph.constant("type_zero", np.array(0, np.int64))
                self._graph.node("Mul", ["input_ids", zero], item.name)
            elif item.name not in _INPUTS and item.name not in self._constants:
                raise BundleError("config.json", f"the model wants an input {item.name}")

    def _replace(self, node: onnx.NodeProto) -> bool:
        """Emit a linear layer or lookup in the plan's format; False when `node` is neither."""
        if self._plan is None:
            return False
        if node.op_type in ("MatMul", "Gemm"):
            return self._linear(node, self._plan)
        if node.op_type == "Gather":
            return self._lookup(node, self._plan)
        return False

    def _linear(self, node: onnx.NodeProto, plan: QuantPlan) -> bool:
        weight = self._constants.get(node.input[1])
        options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        usual = not options.get("transA") and options.get("alpha", 1.0) == 1.0
        if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or not usual:
            return False
        bias = None
        if len(node.input) > 2:
            bias = self._constants.get(node.input[2])
            if bias is None or bias.shape != (bias.size,) or options.get("beta", 1.0) != 1.0:
                return False
        rows = ArrayRows(weight if options.get("transB") else np.ascontiguousarray(weight.T))
        unit = _unit(node.output[0])
        layer = plan.format(unit).linear(
            self._graph, unit, Activation(self._name(node.input[0])), rows, bias
        )
        self._renamed[node.output[0]] = layer.materialise(self._graph)
        return True

    def _lookup(self, node: onnx.NodeProto, plan: QuantPlan) -> bool:
        table = self._constants.get(node.input[0])
        axis = next((helper.get_attribute_value(item) for item in node.attribute), 0)
        if table is None or table.ndim != 2 or table.dtype != np.float32 or axis != 0:
            return False
        if len(table) < MIN_TABLE_ROWS or node.input[1] in self._constants:
            return False
        unit = _unit(node.output[0])
        self._renamed[node.output[0]] = plan.format("embedding").embedding(
            self._graph, unit, self._name(node.input[1]), ArrayRows(table)
        )
        return True

    def _plain(self, node: onnx.NodeProto) -> None:
        self._graph.nodes(
            node.op_type,
            [self._name(name) for name in node.input],
            list(node.output),
            name=node.name,
            domain=node.domain,
            **{item.name: helper.get_attribute_value(item) for item in node.attribute},
        )

    def _name(self, name: str) -> str:
        """The value's name in the copy; constants are written when first used."""
        if name in self._constants:
            return self._graph.constant(f"constant:{name}", self._constants[name])
        return self._renamed.get(name, name)


def _unit(output: str) -> str:
    """A name for the unit that makes `output`."""
    return "units" + output if output.startswith("/") else f"units/{output}"


def _width(graph: onnx.GraphProto, output: str) -> int:
    """The last dimension of a graph output."""
    found = next((item for item in graph.output if item.name == output), None)
    if found is None or not found.type.tensor_type.shape.dim[-1].dim_value:
        raise BundleError("config.json", f"the traced graph has no output {output} of fixed width")
    return int(found.type.tensor_type.shape.dim[-1].dim_value)


def _pool(graph: GraphBuilder, hidden: str, pooling: Pooling) -> str:
    """Pool token vectors [B, S, H] to [B, H]."""
    last = graph.constant("pool/last", np.array([-1], np.int64))
    if pooling.mode == "cls":
        first = graph.constant("pool/first", np.array(0, np.int64))
        pooled = graph.node("Gather", [hidden, first], "pooled", axis=1)
    else:
        places = graph.constant("pool/places", np.array([1], np.int64))
        mask = graph.node("Cast", ["attention_mask"], "pool/mask", to=TensorProto.FLOAT)
        column = graph.node("Unsqueeze", [mask, last], "pool/column")
        kept = graph.node("Mul", [hidden, column], "pool/kept")
        total = graph.node("ReduceSum", [kept, places], "pool/total", keepdims=0)
        count = graph.node("ReduceSum", [mask, last], "pool/count", keepdims=1)
        pooled = graph.node("Div", [total, count], "pooled")
    if not pooling.normalize:
        return pooled
    norm = graph.node("ReduceL2", [pooled, last], "normalize/norm", keepdims=1)
    floor = graph.constant("normalize/floor", np.array(1e-12, np.float32))
    safe = graph.node("Max", [norm, floor], "normalize/safe")
    return graph.node("Div", [pooled, safe], "normalized")
