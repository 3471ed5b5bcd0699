"""Which bytes of a new file are compared with which of an old one. Pure.

Rules
- A tensor is compared with the tensor of the same name and byte length, wherever that lies.
- INT8 tensors are subtracted, others are xored by numbers of their size; what has no counterpart
  is sent as it is.
- Segments come in the order of the new file, cover it once, and have at most 1 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from edge_runtime.bundle.delta import SEGMENT_BYTES, Segment

Item = Literal[1, 2, 4, 8]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies in a data file. `item` is the size of one number in bytes."""

    name: str
    offset: int
    length: int
    item: Item
    is_int8: bool


def segments(
    old: Iterable[Tensor], new: Iterable[Tensor], new_size: int
) -> Iterator[tuple[int, Segment]]:
    """Segments with their first byte in the new file."""
    known = {(item.name, item.length): item for item in old}
    at = 0
    for tensor in sorted(new, key=lambda item: (item.offset, -item.length)):
        if tensor.offset < at or tensor.offset + tensor.length > new_size:
            continue  # shares bytes with one before it, or is not of this file
        yield from _plain(at, tensor.offset)
        yield from _of_tensor(tensor, known.get((tensor.name, tensor.length)))
        at = tensor.offset + tensor.length
    yield from _plain(at, new_size)


def aligned(size: int) -> Iterator[tuple[int, Segment]]:
    """Segments for two files of the same size and unknown content."""
    yield from _split(0, size, "xor", 0, 1)


def unrelated(size: int) -> Iterator[tuple[int, Segment]]:
    """Segments for a file with no counterpart."""
    yield from _plain(0, size)


def by_data_file(graphs: Iterable[Mapping[str, tuple[Tensor, ...]]]) -> dict[str, list[Tensor]]:
    """The tensors of all graphs of a bundle, by the path of the file they lie in."""
    found: dict[str, list[Tensor]] = {}
    for graph in graphs:
        for path, tensors in graph.items():
            found.setdefault(path, []).extend(tensors)
    return found


def _plain(start: int, stop: int) -> Iterator[tuple[int, Segment]]:
    yield from _split(start, stop, "new", 0, 1)


def _of_tensor(tensor: Tensor, old: Tensor | None) -> Iterator[tuple[int, Segment]]:
    stop = tensor.offset + tensor.length
    if old is None:
        yield from _plain(tensor.offset, stop)
    elif tensor.is_int8:
        yield from _split(tensor.offset, stop, "sub", old.offset, 1)
    else:
        item: Item = tensor.item if tensor.length % tensor.item == 0 else 1
        yield from _split(tensor.offset, stop, "xor", old.offset, item)


def _split(
    start: int, stop: int, op: Literal["new", "sub", "xor"], old_start: int, item: Item
) -> Iterator[tuple[int, Segment]]:
    for at in range(start, stop, SEGMENT_BYTES):
        length = min(SEGMENT_BYTES, stop - at)
        offset = 0 if op == "new" else old_start + at - start
        yield at, Segment(op=op, length=length, offset=offset, item=item)
