"""Writes one ONNX graph and its weights, one weight block in memory at a time.

Rules
- Opset 21 unless a graph needs a newer operator, IR 10 always: newer defaults of the `onnx`
  package do not load on older runtimes.
- Every tensor of 16 KiB or more lies in ONE external-data file, each at a page-aligned offset,
  so that the runtime maps it instead of copying it.
- Weights are written in the order of the graph, block by block, and never held whole.
- A second graph may stand over the weights of a first (`GraphBuilder(..., over=first)`): it
  reuses initializers by name and writes none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
IR_VERSION = 10
MS_DOMAIN = "com.microsoft"
PAGE_BYTES = 4096
INLINE_BYTES = 16 * 1024


def native_path(graph: Path) -> Path:
    """Where the graph in native operators lies, beside the portable `graph`."""
    return graph.with_name(f"{graph.stem}-native{graph.suffix}")


class GraphBuilder:
    """Collects nodes; streams weights to `<graph>.data` beside the graph file.

    Use as a context manager: leaving it closes the data file; `save` writes the graph.
    """

    def __init__(
        self, path: Path, name: str, *, opset: int = OPSET, over: GraphBuilder | None = None
    ) -> None:
        """`over`: the builder whose data file, in the same directory, this graph shares."""
        self.path = path
        self.opset = opset
        own = path.with_name(path.name + ".data")
        self.data_path: Path = own if over is None else over.data_path
        self._over = over
        self.memo: dict[tuple[str, ...], Any] = {}
        """Results that several consumers share, such as a quantised input; keyed freely."""
        self.properties: dict[str, str] = {}
        """What the graph says about itself to whoever loads it."""
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._data: BinaryIO | None = None

    def __enter__(self) -> Self:
        if self._over is None:
            self._data = self.data_path.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._data is not None:
            self._data.close()
            self._data = None

    def input(self, name: str, elem_type: int, shape: Sequence[int | str]) -> str:
        """Declare a graph input; symbolic dimensions are strings."""
        self._inputs.append(helper.make_tensor_value_info(name, elem_type, list(shape)))
        return name

    def output(self, name: str, elem_type: int, shape: Sequence[int | str]) -> None:
        """Declare a graph output made by some node."""
        self._outputs.append(helper.make_tensor_value_info(name, elem_type, list(shape)))

    def node(
        self, op: str, inputs: Sequence[str], name: str, *, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output, called like the node. Returns the output's name."""
        return self.nodes(op, inputs, [name], name=name, domain=domain, **attributes)[0]

    def nodes(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        name: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node with several outputs; an unused one is the empty string."""
        self._nodes.append(
            helper.make_node(
                op,
                list(inputs),
                list(outputs),
                name=name or outputs[0],
                domain=domain,
                **attributes,
            )
        )
        return list(outputs)

    def constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        """A small initializer of that name; a second call with the same name reuses the first."""
        if name not in self._initializers:
            array = np.asarray(value)
            if array.nbytes >= INLINE_BYTES:
                return self.weight(name, array.dtype, array.shape, [array])
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(
        self,
        name: str,
        dtype: npt.DTypeLike,
        shape: Sequence[int],
        blocks: Iterable[npt.NDArray[Any]],
    ) -> str:
        """Stream a large initializer: `blocks` are its consecutive parts in C order.

        Raises `ValueError` when the blocks do not add up to `shape`: nobody would notice the
        shift otherwise. Over another graph's weights the blocks are left unread.
        """
        if self._over is not None:
            return self.reuse(name)
        if self._data is None:
            raise ValueError("weights can be written only inside the builder's context")
        if name in self._initializers:
            raise ValueError(f"initializer {name} is written twice")
        self._data.write(b"\0" * (-self._data.tell() % PAGE_BYTES))
        offset, length = self._data.tell(), 0
        for block in blocks:
            chunk = np.ascontiguousarray(block, dtype=dtype)
            self._data.write(chunk.data)
            length += chunk.nbytes
        expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if length != expected:
            raise ValueError(f"initializer {name}: {length} bytes written, shape needs {expected}")
        self._initializers[name] = self._external(name, dtype, shape, offset, length)
        return name

    def reuse(self, name: str) -> str:
        """Take the initializer of that name from the graph whose weights this one shares.

        Raises `ValueError` when there is none.
        """
        if self._over is None or name not in self._over._initializers:  # noqa: SLF001 - its twin
            raise ValueError(f"no initializer {name} to share")
        self._initializers[name] = self._over._initializers[name]  # noqa: SLF001 - its twin
        return name

    def alias(self, name: str, target: str, shape: Sequence[int]) -> str:
        """A second initializer over the bytes of `target` under another shape."""
        source = self._initializers[target]
        entries = {entry.key: entry.value for entry in source.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(source.data_type)
        if source.data_location != TensorProto.EXTERNAL:
            value = numpy_helper.to_array(source).reshape(tuple(shape))
            self._initializers[name] = numpy_helper.from_array(value, name)
        else:
            self._initializers[name] = self._external(
                name, dtype, shape, int(entries["offset"]), int(entries["length"])
            )
        return name

    def _external(
        self, name: str, dtype: npt.DTypeLike, shape: Sequence[int], offset: int, length: int
    ) -> onnx.TensorProto:
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
            dims=list(shape),
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (
            ("location", self.data_path.name),
            ("offset", offset),
            ("length", length),
        ):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def save(self) -> list[Path]:
        """Write the graph. Returns the files of the model, graph first."""
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._initializers.values())
        )
        domains = sorted({MS_DOMAIN, *(node.domain for node in self._nodes)} - {""})
        opsets = [("", self.opset), *((domain, 1) for domain in domains)]
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets],
            ir_version=IR_VERSION,
            producer_name="edge-export",
        )
        helper.set_model_props(model, self.properties)
        self.path.write_bytes(model.SerializeToString())
        if self._data is not None:
            self._data.flush()
        if self._over is not None or self.data_path.stat().st_size == 0:
            return [self.path]
        return [self.path, self.data_path]
