"""Texts of similar length share a run, within its budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.scheduler.encoder_batches import MAX_WASTE, SMALL_SPREAD, plan_batches

LENGTHS = st.lists(st.integers(1, 600), max_size=200)


@given(LENGTHS, st.integers(1, 4096), st.integers(1, 64))
def test_every_text_runs_exactly_once(lengths: list[int], budget: int, rows: int) -> None:
    batches = plan_batches(lengths, budget, rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)


@given(LENGTHS, st.integers(1, 4096), st.integers(1, 64))
def test_no_batch_exceeds_its_limits(lengths: list[int], budget: int, rows: int) -> None:
    for batch in plan_batches(lengths, budget, rows):
        longest = max(lengths[index] for index in batch)
        assert len(batch) <= rows
        assert longest * len(batch) <= budget or len(batch) == 1


@given(LENGTHS, st.integers(1, 4096), st.integers(1, 64))
def test_padding_stays_small(lengths: list[int], budget: int, rows: int) -> None:
    for batch in plan_batches(lengths, budget, rows):
        found = [lengths[index] for index in batch]
        padded = max(found) * len(found)
        assert padded - sum(found) <= MAX_WASTE * padded or max(found) - min(found) <= SMALL_SPREAD


@given(LENGTHS)
def test_batches_go_from_short_to_long(lengths: list[int]) -> None:
    order = [lengths[index] for batch in plan_batches(lengths, 512, 32) for index in batch]
    assert order == sorted(lengths)


def test_one_long_text_does_not_pad_the_short_ones() -> None:
    assert plan_batches([8, 8, 200, 8], 2048, 32) == [[0, 1, 3], [2]]


def test_equal_lengths_keep_the_order_of_arrival() -> None:
    assert plan_batches([5] * 5, 10, 32) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(("budget", "rows"), [(0, 1), (1, 0)])
def test_limits_below_one_are_refused(budget: int, rows: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        plan_batches([1], budget, rows)


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        plan_batches([3, 0], 10, 10)
