"""Prefixes are found, and never taken from a slot at work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.scheduler.slots import (
    MIN_CHUNK,
    MIN_REUSE,
    SlotChoice,
    SlotTable,
    common_prefix,
    worth_waiting,
)

PROMPT = tuple(range(30))


def fill(table: SlotTable, tokens: tuple[int, ...], *, release: bool = True) -> int:
    choice = table.choose((*tokens, -1))
    assert choice is not None
    table.take(choice)
    table.extend(choice.slot, tokens[choice.cached_len :])
    if release:
        table.release(choice.slot)
    return choice.slot


def test_empty_slots_are_taken_in_order() -> None:
    table = SlotTable(2)
    assert fill(table, (1, 2), release=False) == 0
    assert fill(table, (3, 4), release=False) == 1
    assert table.choose((5,)) is None
    assert not table.has_free()
    assert table.busy_count == len(table) == 2


def test_a_short_common_beginning_is_not_worth_it() -> None:
    table = SlotTable(2)
    fill(table, PROMPT[: MIN_REUSE - 1])
    assert table.choose(PROMPT) == SlotChoice(1, 0)
    fill(table, (*PROMPT[:MIN_REUSE], 99))
    assert table.choose(PROMPT) == SlotChoice(1, MIN_REUSE)


def test_a_busy_slot_lends_to_the_longest_unused_one() -> None:
    table = SlotTable(3)
    fill(table, (70,) * 9)
    fill(table, (80,) * 9)
    fill(table, PROMPT, release=False)
    choice = table.choose(PROMPT)
    assert choice == SlotChoice(0, len(PROMPT) - MIN_CHUNK, copy_from=2)
    table.take(choice)
    assert list(table.resident(0)) == list(PROMPT[:-MIN_CHUNK])


def test_a_free_slot_with_as_much_needs_no_copy() -> None:
    table = SlotTable(2)
    fill(table, PROMPT)
    assert table.choose((*PROMPT, 1, 2)) == SlotChoice(0, len(PROMPT))


def test_what_a_failed_step_touched_is_not_reused() -> None:
    table = SlotTable(1)
    slot = fill(table, PROMPT, release=False)
    table.forget(slot)
    table.release(slot)
    assert table.choose(PROMPT) == SlotChoice(0, 0)


def test_a_slot_is_not_taken_twice() -> None:
    table = SlotTable(1)
    choice = table.choose(PROMPT)
    assert choice is not None
    table.take(choice)
    with pytest.raises(ValueError, match="taken already"):
        table.take(choice)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=12))
def test_what_is_reused_is_the_prompts_own_beginning(prompts: list[list[int]]) -> None:
    table = SlotTable(3)
    held: list[int] = []
    for prompt in prompts:
        choice = table.choose(prompt)
        if choice is None:
            table.release(held.pop(0))
            choice = table.choose(prompt)
        assert choice is not None
        table.take(choice)
        held.append(choice.slot)
        assert choice.cached_len <= max(0, len(prompt) - MIN_CHUNK)
        assert list(table.resident(choice.slot)) == prompt[: choice.cached_len]
        table.extend(choice.slot, prompt[choice.cached_len :])


@pytest.mark.parametrize(
    ("cached", "coming", "computed", "waits"),
    [
        (0, [*range(40)], 0, True),  # the same prompt, just begun
        (0, [*range(40)], 38, False),  # it is all there to copy
        (0, [*range(30), 99], 0, True),
        (0, [*range(15), 99], 0, False),  # less than half of it
        (34, [*range(40)], 34, False),  # too little is left to copy
        (20, [*range(40)], 20, True),
        (0, [99, *range(40)], 0, False),
    ],
)
def test_a_prefix_worth_waiting_for(
    cached: int, coming: list[int], computed: int, waits: bool
) -> None:
    assert worth_waiting([*range(40)], cached, coming, computed) is waits


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix_is_the_longest(left: list[int], right: list[int]) -> None:
    count = common_prefix(left, right)
    assert left[:count] == right[:count]
    assert left[count : count + 1] != right[count : count + 1] or count == len(left) == len(right)
