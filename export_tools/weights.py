"""Reads safetensors checkpoints block by block, without a tensor library.

Rules
- The header is checked before a byte of data is read: offsets inside the file, sizes that fit
  shape and dtype, no overlap.
- A tensor is read as float32 blocks of about 16 MiB; nothing is kept.
- Only F32, F16 and BF16 hold weights; anything else is refused by name.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON, data).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import BundleError
from export_tools.progress import Progress, SilentProgress
from export_tools.quant.rows import FloatArray, rows_per_block

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100 * 1024 * 1024
_SIZES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies: `offset` is absolute in `file`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


class Checkpoint:
    """The tensors of a checkpoint directory, sharded or not. Opening reads headers only."""

    def __init__(self, directory: Path, progress: Progress | None = None) -> None:
        self.directory = directory
        self.progress: Progress = progress or SilentProgress()
        self.files = _weight_files(directory)
        self.tensors: dict[str, TensorInfo] = {}
        for file in self.files:
            for info in _read_header(file):
                if info.name in self.tensors:
                    raise BundleError(file.name, f"tensor {info.name} is in two files")
                self.tensors[info.name] = info
        _check_index(directory, self.tensors)

    @property
    def total_bytes(self) -> int:
        """Source bytes of all tensors."""
        return sum(info.size_bytes for info in self.tensors.values())

    def matrix(self, name: str) -> TensorRows:
        """A 2-D tensor as rows to stream. Raises `BundleError` for other ranks or dtypes."""
        info = self._weight(name)
        if len(info.shape) != 2:
            raise BundleError(info.file.name, f"{name} has shape {info.shape}, needs two axes")
        return TensorRows(info, self.progress)

    def vector(self, name: str) -> FloatArray:
        """A small 1-D tensor as float32."""
        info = self._weight(name)
        if len(info.shape) != 1:
            raise BundleError(info.file.name, f"{name} has shape {info.shape}, needs one axis")
        rows = TensorRows(_reshaped(info, (1, *info.shape)), self.progress)
        return np.concatenate([block[0] for block in rows.blocks()])

    def _weight(self, name: str) -> TensorInfo:
        try:
            info = self.tensors[name]
        except KeyError:
            raise BundleError(str(self.directory), f"tensor {name} is missing") from None
        if info.dtype not in _SIZES:
            raise BundleError(
                info.file.name,
                f"{name} is {info.dtype}; export from a checkpoint in F32, F16 or BF16",
            )
        return info


class TensorRows:
    """`Rows` over one tensor of a safetensors file."""

    def __init__(self, info: TensorInfo, progress: Progress) -> None:
        self.info = info
        self._progress = progress

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.info.shape[0]

    @property
    def cols(self) -> int:
        """Number of columns."""
        return self.info.shape[1]

    def blocks(self) -> Iterator[FloatArray]:
        """Float32 blocks in order, read by plain file reads: no pages of the source stay mapped."""
        width = self.cols * _SIZES[self.info.dtype]
        step = rows_per_block(self.cols)
        with self.info.file.open("rb") as source:
            source.seek(self.info.offset)
            for start in range(0, self.rows, step):
                count = min(step, self.rows - start)
                raw = source.read(count * width)
                if len(raw) != count * width:
                    raise BundleError(self.info.file.name, f"ends inside {self.info.name}")
                yield _to_float32(raw, self.info.dtype).reshape(count, self.cols)
                self._progress.advance(self.info.name, len(raw))


def _to_float32(raw: bytes, dtype: str) -> FloatArray:
    """Little-endian bytes to float32; BF16 is the upper half of a float32."""
    if dtype == "BF16":
        wide = np.frombuffer(raw, "<u2").astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    values: npt.NDArray[Any] = np.frombuffer(raw, "<f4" if dtype == "F32" else "<f2")
    return values.astype(np.float32)


def _reshaped(info: TensorInfo, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo(info.name, info.file, info.dtype, shape, info.offset, info.size_bytes)


def _weight_files(directory: Path) -> list[Path]:
    """The weight files, sorted. Raises `BundleError` when there are none or one is missing."""
    index = directory / INDEX_FILE
    if index.is_file():
        names = sorted(set(_weight_map(index).values()))
        for name in names:
            if Path(name).name != name:
                raise BundleError(INDEX_FILE, f"names a file outside its directory: {name}")
            if not (directory / name).is_file():
                raise BundleError(INDEX_FILE, f"names {name}, which is not there; fetch it again")
        return [directory / name for name in names]
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    raise BundleError(
        str(directory),
        f"holds neither {SINGLE_FILE} nor {INDEX_FILE}; only safetensors checkpoints are exported",
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        document = json.loads(index.read_text("utf-8"))
        mapping = document["weight_map"]
        return {str(tensor): str(file) for tensor, file in mapping.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(index.name, "is no safetensors index with a weight_map") from error


def _check_index(directory: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """An index must agree with the files about where each tensor lies."""
    index = directory / INDEX_FILE
    if not index.is_file():
        return
    mapping = _weight_map(index)
    wrong = sorted(
        name
        for name in mapping.keys() | tensors.keys()
        if name not in tensors or mapping.get(name) != tensors[name].file.name
    )
    if wrong:
        raise BundleError(INDEX_FILE, f"does not fit the files for: {', '.join(wrong[:8])}")


def _read_header(file: Path) -> list[TensorInfo]:
    size = file.stat().st_size
    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise BundleError(file.name, "is no safetensors file: header length out of range")
        raw = source.read(length)
    try:
        header = json.loads(raw)
        items = [(name, spec) for name, spec in header.items() if name != "__metadata__"]
        infos = [_tensor_info(file, name, spec, 8 + length) for name, spec in items]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(file.name, "is no safetensors file: unreadable header") from error
    end = 8 + length
    for info in sorted(infos, key=lambda item: item.offset):
        if info.offset < end or info.offset + info.size_bytes > size:
            raise BundleError(file.name, f"tensor {info.name} lies outside the file or overlaps")
        end = info.offset + info.size_bytes
    return infos


def _tensor_info(file: Path, name: str, spec: Mapping[str, Any], base: int) -> TensorInfo:
    begin, end = (int(value) for value in spec["data_offsets"])
    shape = tuple(int(value) for value in spec["shape"])
    dtype = str(spec["dtype"])
    if begin < 0 or end < begin or any(value < 0 for value in shape):
        raise BundleError(file.name, f"tensor {name} has a negative extent")
    if dtype in _SIZES and end - begin != math.prod(shape) * _SIZES[dtype]:
        raise BundleError(file.name, f"tensor {name}: size does not fit {dtype} {list(shape)}")
    return TensorInfo(name, file, dtype, shape, base + begin, end - begin)


def weights_digest(files: list[Path]) -> str:
    """Sha256 (hex) of the weight file, or over the sorted `sha256  name` lines of several."""
    digests = []
    for file in sorted(files):
        with file.open("rb") as source:
            digests.append((hashlib.file_digest(source, "sha256").hexdigest(), file.name))
    if len(digests) == 1:
        return digests[0][0]
    lines = "".join(f"{digest}  {name}\n" for digest, name in digests)
    return hashlib.sha256(lines.encode()).hexdigest()
