"""Traffic is halved by hash and mixed to its share, without reuse and the same everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import UsageError
from export_tools.certify.traffic import Example, Half, data_digest, half, mixed


def traffic(inside: int, outside: int) -> list[Example]:
    found = [Example(f"in {at}", "label") for at in range(inside)]
    return found + [Example(f"out {at}", None) for at in range(outside)]


@given(st.integers(20, 400), st.integers(20, 400), st.floats(0.05, 0.9))
def test_the_share_holds_and_one_side_is_used_up(inside: int, outside: int, share: float) -> None:
    found = mixed(traffic(inside, outside), share, salt="s")
    wrong = sum(item.label is None for item in found)
    assert abs(wrong - share * len(found)) <= 1
    assert len({item.text for item in found}) == len(found)
    assert len(found) - wrong >= inside - 1 or wrong >= outside - 1


def test_without_a_share_nothing_is_left_out() -> None:
    assert mixed(traffic(30, 5), None, salt="s") == traffic(30, 5)
    assert all(item.label for item in mixed(traffic(30, 5), 0.0, salt="s"))


@pytest.mark.parametrize(("inside", "outside", "share"), [(0, 9, 0.2), (9, 0, 0.2), (9, 9, 1.0)])
def test_a_share_that_cannot_be_reached_is_refused(inside: int, outside: int, share: float) -> None:
    with pytest.raises(UsageError, match="out of scope"):
        mixed(traffic(inside, outside), share, salt="s")


def test_the_draw_follows_the_texts_and_the_salt_not_the_order() -> None:
    examples = traffic(200, 100)
    first = mixed(examples, 0.18, salt="s")
    assert mixed(examples[::-1], 0.18, salt="s") == first
    assert mixed(examples, 0.18, salt="t") != first
    assert data_digest(first) == data_digest(first[::-1])
    assert data_digest(first) != data_digest(first[1:])


@given(st.lists(st.text(min_size=1), min_size=1, max_size=40))
def test_halves_share_nothing_and_lose_nothing(texts: list[str]) -> None:
    examples = [Example(text, "label") for text in texts]
    parts = [half(examples, which, salt="s") for which in Half]
    assert not {item.text for item in parts[0]} & {item.text for item in parts[1]}
    assert sorted(item.text for part in parts for item in part) == sorted(texts)


def test_fitting_halves_are_independent_of_calibrating_ones() -> None:
    examples = traffic(4000, 0)
    sides = [{item.text for item in half(examples, Half.REPORT, salt=salt)} for salt in "ab"]
    assert 900 < len(sides[0] & sides[1]) < 1100
