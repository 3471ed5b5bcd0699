"""A step's rows reach the graph whole, whatever runs they are divided into."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.core import StepPlan, StepRow
from edge_runtime.engine.packing import SPLIT_WASTE, PackedRun, pack_step, split_rows


@st.composite
def steps(draw: st.DrawFn) -> list[StepRow]:
    slots = draw(st.lists(st.integers(0, 15), min_size=1, max_size=10, unique=True))
    rows = []
    for slot in slots:
        count = draw(st.sampled_from([1, 1, 1, 2, 5, 40, 200]))
        cached = draw(st.integers(0, 50))
        tokens = tuple(1000 * slot + at for at in range(count))
        rows.append(StepRow(slot, tokens, cached, draw(st.booleans())))
    return rows


def tokens_of(run: PackedRun, place: int) -> list[int]:
    """The tokens that attention sees in a slot of the run."""
    count = int(run.query_seqlens[place])
    return [int(run.input_ids[row]) for row in run.pad_index[place, :count]]


@given(steps())
def test_each_slot_gets_its_own_tokens_at_their_places(rows: list[StepRow]) -> None:
    seen = {}
    for run in pack_step(rows):
        for place in range(run.slot_count):
            if run.query_seqlens[place]:
                slot = run.first + place
                seen[slot] = (tokens_of(run, place), int(run.seqlens_k[place]))
    assert seen == {row.slot: (list(row.tokens), row.cached_len + row.new_len - 1) for row in rows}


@given(steps())
def test_what_was_padded_is_unpadded(rows: list[StepRow]) -> None:
    for run in pack_step(rows):
        padded = run.input_ids[run.pad_index]
        assert padded.reshape(-1)[run.unpad_index].tolist() == run.input_ids.tolist()
        assert run.pad_index.max() < len(run.input_ids)


@given(steps())
def test_logits_come_back_in_the_order_of_the_plan(rows: list[StepRow]) -> None:
    wanting = [row for row in rows if row.wants_logits]
    last: dict[int, int] = {}
    for run in pack_step(rows):
        assert len(run.logits_rows) == len(run.logits_index)
        for place, at in zip(run.logits_rows, run.logits_index, strict=True):
            last[place] = int(run.input_ids[at])
    assert [last[place] for place in sorted(last)] == [row.tokens[-1] for row in wanting]


@given(steps())
def test_padding_of_a_run_is_bounded(rows: list[StepRow]) -> None:
    groups = split_rows(rows)
    assert sorted(row.slot for group in groups for row in group) == sorted(r.slot for r in rows)
    for group in groups:
        slots = max(r.slot for r in group) - min(r.slot for r in group) + 1
        waste = slots * max(r.new_len for r in group) - sum(r.new_len for r in group)
        assert waste <= SPLIT_WASTE or len(group) == 1


@given(steps())
def test_without_padding_a_step_is_one_run(rows: list[StepRow]) -> None:
    (run,) = pack_step(rows, padded=False)
    ordered = sorted(rows, key=lambda row: row.slot)
    assert run.input_ids.tolist() == [token for row in ordered for token in row.tokens]
    inside = run.query_seqlens > 0
    assert run.query_seqlens[inside].tolist() == [row.new_len for row in ordered]
    assert (np.flatnonzero(inside) + run.first).tolist() == [row.slot for row in ordered]
    assert run.pad_index.size == run.unpad_index.size == 1


@given(steps())
def test_the_bound_of_the_lengths_leaves_room_for_the_padded_chunk(rows: list[StepRow]) -> None:
    for run in pack_step(rows):
        width = run.pad_index.shape[1]
        inside = run.query_seqlens > 0
        cached = run.seqlens_k[inside] + 1 - run.query_seqlens[inside]
        assert int(run.total_len[0]) >= int(cached.max()) + width


def test_types_are_those_of_the_contract() -> None:
    (run,) = pack_step([StepRow(3, (7, 8), 4, True), StepRow(5, (9, 9), 0, False)])
    assert run.first == 3
    assert run.query_seqlens.tolist() == [2, 0, 2]
    assert run.logits_index.tolist() == [1]
    for name in ("input_ids", "pad_index", "unpad_index", "logits_index"):
        assert getattr(run, name).dtype == np.int64
    for name in ("query_seqlens", "seqlens_k", "total_len"):
        assert getattr(run, name).dtype == np.int32


def test_a_plan_that_cannot_be_run_is_refused() -> None:
    row = StepRow(0, (1,), 0, True)
    with pytest.raises(ValueError, match="twice"):
        StepPlan((row, row))
    with pytest.raises(ValueError, match="without tokens"):
        StepPlan((StepRow(0, (), 0, True),))
