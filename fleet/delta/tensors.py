"""Where the tensors of a graph lie in its external data files."""

from __future__ import annotations

from pathlib import PurePosixPath

import onnx
from google.protobuf.message import DecodeError

from edge_runtime.errors import BundleError
from fleet.delta.segments import Item, Tensor

_INT8 = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})
_ITEM: dict[int, Item] = {
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.DOUBLE: 8,
    onnx.TensorProto.INT16: 2,
    onnx.TensorProto.UINT16: 2,
    onnx.TensorProto.INT32: 4,
    onnx.TensorProto.UINT32: 4,
    onnx.TensorProto.INT64: 8,
    onnx.TensorProto.UINT64: 8,
}


def external_tensors(path: str, graph: bytes) -> dict[str, tuple[Tensor, ...]]:
    """The tensors that a graph at `path` of a bundle keeps outside, by the path of their file.

    A place that cannot be read is left out: its bytes are then sent as they are. Raises
    `BundleError` when `graph` is no ONNX model.
    """
    try:
        model = onnx.load_model_from_string(graph)
    except (DecodeError, ValueError) as error:
        raise BundleError(path, f"is no ONNX graph: {error}") from error
    found: dict[str, list[Tensor]] = {}
    for item in model.graph.initializer:
        place = {entry.key: entry.value for entry in item.external_data}
        try:
            offset, length = int(place.get("offset", "0")), int(place["length"])
            location = str(PurePosixPath(path).parent / place["location"])
        except (KeyError, ValueError):
            continue
        if offset < 0 or length <= 0:
            continue
        is_int8 = item.data_type in _INT8
        size = _ITEM.get(item.data_type, 1)
        found.setdefault(location, []).append(Tensor(item.name, offset, length, size, is_int8))
    return {location: tuple(tensors) for location, tensors in found.items()}
