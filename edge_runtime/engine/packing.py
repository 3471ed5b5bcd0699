"""How a step's rows become runs of the packed graph.

Only attention is padded: a run of B slots whose longest row has S tokens gathers B x S rows
around each attention operator. One long prompt chunk among many decode rows would pad every one
of them to its length, so such a step is split: the decode rows in one run, each long chunk in a
run of its own. Reading the weights a second time costs less than the padding from `SPLIT_WASTE`
padded rows on.

A graph whose attention reads packed rows needs none of this: a step is one run.

A run covers a contiguous range of slots; slots inside the range without a row are idle
(`query_seqlens` 0), which the attention operator skips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.core import StepRow

SPLIT_WASTE = 256
"""Padded rows (B x S - T) past which a second pass over the weights is the cheaper way."""

MIN_WIDTH = 2
"""Narrowest padded form. At S = 1 the attention kernel takes another path, whose last bits differ
from the one that a decode row gets beside a prompt chunk: a quantised model would then answer
otherwise in company than alone. The wider form is also the faster one for eight slots or more."""

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]

_NONE: Int64Array = np.zeros((1, 1), np.int64)


@dataclass(frozen=True, slots=True)
class PackedRun:
    """The inputs of one run over slots `first .. first + B - 1`; shapes as in the contract.

    `logits_rows` are the places in the step's plan order that this run's logits fill, in the
    order of `logits_index`.
    """

    first: int
    input_ids: Int64Array  # [T]
    pad_index: Int64Array  # [B, S]
    unpad_index: Int64Array  # [T]
    query_seqlens: Int32Array  # [B]
    seqlens_k: Int32Array  # [B]
    total_len: Int32Array  # [1]
    logits_index: Int64Array  # [L]
    logits_rows: tuple[int, ...]

    @property
    def slot_count(self) -> int:
        """B: slots the run covers, idle ones included."""
        return len(self.query_seqlens)


def split_rows(rows: Sequence[StepRow]) -> list[list[StepRow]]:
    """Group the rows of a step so that no run pads more than `SPLIT_WASTE` rows; shortest first."""
    groups: list[list[StepRow]] = []
    for row in sorted(rows, key=lambda row: row.new_len):
        if groups and _waste([*groups[-1], row]) <= SPLIT_WASTE:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def pack(rows: Sequence[StepRow], logits_rows: Sequence[int], *, padded: bool = True) -> PackedRun:
    """Pack `rows` (at most one a slot) into the graph's inputs.

    `logits_rows` names, for each row that wants logits and in row order, its place among the
    step's logits. Unless `padded`, the inputs that describe padding are bare placeholders.
    """
    rows = sorted(rows, key=lambda row: row.slot)
    first = rows[0].slot
    slots = rows[-1].slot - first + 1
    longest = max(MIN_WIDTH, *(row.new_len for row in rows))
    query_seqlens = np.zeros(slots, np.int32)
    seqlens_k = np.zeros(slots, np.int32)
    for row in rows:
        query_seqlens[row.slot - first] = row.new_len
        seqlens_k[row.slot - first] = row.cached_len + row.new_len - 1
    pad_index, unpad_index = _padding(query_seqlens, longest) if padded else (_NONE, _NONE[0])
    ends = np.cumsum([row.new_len for row in rows]) - 1
    wanted = [int(end) for end, row in zip(ends, rows, strict=True) if row.wants_logits]
    # The operator wants room for the padded chunk behind the cached tokens.
    total = max(row.cached_len for row in rows) + longest
    return PackedRun(
        first=first,
        input_ids=np.fromiter((t for row in rows for t in row.tokens), np.int64, ends[-1] + 1),
        pad_index=pad_index,
        unpad_index=unpad_index,
        query_seqlens=query_seqlens,
        seqlens_k=seqlens_k,
        total_len=np.array([total], np.int32),
        logits_index=np.array(wanted, np.int64),
        logits_rows=tuple(logits_rows),
    )


def pack_step(rows: Sequence[StepRow], *, padded: bool = True) -> list[PackedRun]:
    """All runs of one step, one unless `padded`. Logits are numbered in plan order over all."""
    place_of = {row.slot: place for place, row in enumerate(r for r in rows if r.wants_logits)}
    runs = []
    for group in split_rows(rows) if padded else [rows]:
        ordered = sorted(group, key=lambda row: row.slot)
        wanted = [place_of[row.slot] for row in ordered if row.wants_logits]
        runs.append(pack(ordered, wanted, padded=padded))
    return runs


def _padding(lengths: Int32Array, longest: int) -> tuple[Int64Array, Int64Array]:
    """`pad_index` [B, longest] and `unpad_index` [T] for slots of these lengths."""
    inside = np.arange(longest) < lengths[:, None]
    pad_index = np.zeros(inside.shape, np.int64)
    pad_index[inside] = np.arange(int(lengths.sum()))
    return pad_index, np.flatnonzero(inside)


def _waste(rows: Sequence[StepRow]) -> int:
    slots = max(row.slot for row in rows) - min(row.slot for row in rows) + 1
    longest = max(MIN_WIDTH, *(row.new_len for row in rows))
    return slots * longest - sum(row.new_len for row in rows)
