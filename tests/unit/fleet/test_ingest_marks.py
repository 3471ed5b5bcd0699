"""Watermarks: no row twice, none lost, whatever the order; checked against a plain set."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.agent.protocol import BatchHeader
from fleet.ingest.marks import MAX_AHEAD, Mark, take


def header(
    first: int, last: int, oldest: int | None = None, rows: int | None = None
) -> BatchHeader:
    return BatchHeader(
        boot="b",
        stream="s",
        first_seq=first,
        last_seq=last,
        rows=rows or last - first + 1,
        clock_s=0,
        oldest_seq=oldest,
    )


def taken(mark: Mark, first: int, last: int, oldest: int | None = None) -> tuple[Mark, list[int]]:
    found = take(mark, header(first, last, oldest), tuple(range(first, last + 1)))
    assert found is not None
    return found.mark, sorted(found.fresh)


def test_rows_in_order_move_the_mark() -> None:
    mark, fresh = taken(Mark(), 1, 4)
    assert (mark, fresh) == (Mark(4), [1, 2, 3, 4])
    mark, fresh = taken(mark, 3, 6)
    assert (mark, fresh) == (Mark(6), [5, 6])


def test_what_comes_ahead_waits_for_what_lies_before() -> None:
    mark, _ = taken(Mark(), 5, 8)
    assert mark == Mark(0, ((5, 8),))
    mark, fresh = taken(mark, 1, 4)
    assert (mark, fresh) == (Mark(8), [1, 2, 3, 4])


def test_a_message_twice_is_taken_once() -> None:
    mark, _ = taken(Mark(), 5, 8)
    assert taken(mark, 5, 8) == (mark, [])
    assert taken(Mark(8), 5, 8) == (Mark(8), [])


def test_rows_the_box_evicted_are_given_up() -> None:
    mark, fresh = taken(Mark(2), 9, 10, oldest=9)
    assert (mark, fresh) == (Mark(10, (), 6), [9, 10])
    # Sent before the eviction, heard after it: nobody waits for it, and nothing moves back.
    assert taken(mark, 3, 4, oldest=3) == (mark, [])


def test_rows_ahead_count_as_here_when_older_ones_are_given_up() -> None:
    mark, _ = taken(Mark(), 3, 4)
    mark, _ = taken(mark, 8, 8, oldest=8)
    assert mark == Mark(8, (), 5)


def test_gaps_inside_a_batch_are_not_waited_for() -> None:
    found = take(Mark(), header(1, 5, rows=3), (1, 3, 5))
    assert found is not None
    assert found.mark == Mark(5, (), 2)


def test_too_many_gaps_are_refused_not_forgotten() -> None:
    mark = Mark()
    for first in range(2, 2 + 2 * MAX_AHEAD, 2):
        mark, _ = taken(mark, first, first)
    assert len(mark.ahead) == MAX_AHEAD
    assert take(mark, header(500, 500), (500,)) is None
    mark, _ = taken(mark, 1, 1)
    assert take(mark, header(500, 500), (500,)) is not None


@dataclass
class Box:
    """Sends rows from the oldest it has; the network loses, repeats and reorders."""

    rng: random.Random
    held: set[int] = field(default_factory=set)
    made: int = 0
    air: list[tuple[BatchHeader, tuple[int, ...]]] = field(default_factory=list)

    def make(self, count: int) -> None:
        self.held |= set(range(self.made + 1, self.made + count + 1))
        self.made += count

    def send(self) -> None:
        rest = sorted(self.held)
        while rest:
            size = self.rng.randint(1, 5)
            part, rest = rest[:size], rest[size:]
            head = header(part[0], part[-1], oldest=min(self.held), rows=len(part))
            self.air += [(head, tuple(part))] * self.rng.choice((0, 1, 1, 2))
        self.rng.shuffle(self.air)

    def evict(self) -> set[int]:
        gone = set(sorted(self.held)[: self.rng.randint(1, 6)])
        self.held -= gone
        return gone


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), evict=st.booleans())
def test_every_row_is_taken_exactly_once(seed: int, evict: bool) -> None:
    rng = random.Random(seed)
    box, mark, stored, gone = Box(rng), Mark(), list[int](), set[int]()
    for _ in range(12):
        box.make(rng.randint(0, 8))
        if evict and box.held and rng.random() < 0.3:
            gone |= box.evict()
        box.send()
        keep = rng.randint(0, len(box.air))
        for head, seqs in box.air[keep:]:
            found = take(mark, head, seqs)
            if found is not None:
                stored += sorted(found.fresh)
                assert found.mark.mark >= mark.mark
                mark = found.mark
        box.air = box.air[:keep]
        box.held = {seq for seq in box.held if seq > mark.mark}
    box.air = []
    while box.held:  # the network is well again
        rest = sorted(box.held)
        found = take(mark, header(rest[0], rest[-1], rest[0], len(rest)), tuple(rest))
        assert found is not None
        stored += sorted(found.fresh)
        mark = found.mark
        box.held = {seq for seq in box.held if seq > mark.mark}
    assert len(stored) == len(set(stored))
    assert set(stored) | gone == set(range(1, box.made + 1))
    if not evict:
        assert (mark.given_up, mark.mark) == (0, box.made)


def test_a_mark_knows_what_it_has() -> None:
    mark = Mark(3, ((6, 7),))
    assert [mark.has(seq) for seq in range(1, 9)] == [True] * 3 + [False] * 2 + [True] * 2 + [False]
    with pytest.raises(AttributeError):
        mark.mark = 5  # type: ignore[misc]
