"""The smallest that is good enough: what is shown, what is not, and how often that is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_tools.rightsize.choose import Choice, Errors, Standing, Wanted, choose, paired


def errors(n: int, *wrong: range) -> Errors:
    found = np.zeros(n, bool)
    for part in wrong:
        found[part.start : part.stop] = True
    return found


def choice(rows: list[Errors], sizes: list[float], **wanted: float) -> Choice:
    names = [f"c{at}" for at in range(len(rows))]
    return choose(names, rows, sizes, Wanted(**wanted))


def test_the_smallest_that_loses_little_is_taken() -> None:
    big, small = errors(4000, range(100)), errors(4000, range(4, 110))
    found = choice([big, small], [100.0, 25.0])
    assert (found.chosen, found.best) == (1, 0)
    assert found.judged[1].against_best.lost == 10
    assert found.judged[1].against_best.won == 4
    assert found.judged[1].against_best.loss == pytest.approx(6 / 4000)
    assert found.why.startswith("c1: the smallest that is shown to have a loss of at most 1.0%")


def test_one_that_is_worse_is_named_so_and_not_taken() -> None:
    found = choice([errors(2000, range(50)), errors(2000, range(200))], [100.0, 10.0])
    assert found.chosen == 0
    assert found.judged[1].standing is Standing.WORSE
    assert "c1 is worse" in found.why


def test_too_few_texts_decide_nothing() -> None:
    found = choice([errors(50, range(2)), errors(50, range(1, 3))], [2.0, 1.0])
    assert found.chosen is None
    assert {one.standing for one in found.judged} == {Standing.UNDECIDED}
    assert "add data" in found.why


def test_a_floor_asks_nothing_of_the_best() -> None:
    rows = [errors(1000), errors(1000, range(80)), errors(1000, range(300))]
    found = choice(rows, [3.0, 2.0, 1.0], floor=0.88)
    assert found.chosen == 1
    assert [one.standing for one in found.judged] == [
        Standing.GOOD, Standing.GOOD, Standing.WORSE,
    ]  # fmt: skip


def test_a_single_candidate_has_nobody_to_lose_to() -> None:
    assert choice([errors(30, range(20))], [1.0]).chosen == 0


def test_of_equally_good_ones_the_best_is_the_smaller() -> None:
    assert choice([errors(9000, range(9))] * 2, [2.0, 1.0]).best == 1


def test_mcnemar_is_exact() -> None:
    pair = paired(errors(100, range(1, 10)), errors(100, range(1)), 0.05)
    assert (pair.lost, pair.won) == (9, 1)
    assert pair.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert paired(errors(9), errors(9), 0.05).p == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_bound_lies_above_what_was_seen(pairs: list[tuple[bool, bool]]) -> None:
    left, right = (np.array(side) for side in zip(*pairs, strict=True))
    pair = paired(left, right, 0.05)
    assert -1 <= pair.loss <= pair.bound <= 1
    assert paired(right, left, 0.05).p == pair.p


def test_one_that_is_too_bad_is_seldom_called_good_enough() -> None:
    """Three candidates just over the margin, 400 times: at most delta of them pass anywhere."""
    generator = np.random.default_rng(3)
    passed = 0
    for _ in range(400):
        best = generator.random(1500) < 0.05
        worse = [best | (generator.random(1500) < 0.0335) for _ in range(3)]
        found = choice([best, *worse], [9.0, 1.0, 2.0, 3.0], margin=0.03, delta=0.2)
        passed += any(one.standing is Standing.GOOD for one in found.judged[1:])
    assert passed <= 0.2 * 400


@pytest.mark.parametrize("wrong", [{"delta": 0}, {"margin": 1}, {"floor": 1.5}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"lies in|are shares"):
        Wanted(**wrong)


def test_verdicts_of_other_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="as many verdicts"):
        choice([errors(3)], [1.0, 2.0])
