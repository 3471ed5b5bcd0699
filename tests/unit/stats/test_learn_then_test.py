"""The threshold walk: its rules one by one, then its promise by simulation."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.stats.clopper_pearson import upper_bound
from edge_runtime.stats.learn_then_test import Walk, first_kept, learn_then_test, smallest_sample


def walk(scores: list[float], errors: list[int], alpha: float = 0.2, delta: float = 0.2) -> Walk:
    return learn_then_test(scores, errors, alpha=alpha, delta=delta)


def falling(count: int) -> list[float]:
    return [1 - place / (2 * count) for place in range(count)]


def test_smallest_samples_are_the_published_ones() -> None:
    wanted = {(0.05, 0.10): 45, (0.05, 0.05): 59, (0.02, 0.10): 114, (0.01, 0.10): 230}
    wanted[0.01, 0.05] = 299
    assert {key: math.ceil(smallest_sample(*key)) for key in wanted} == wanted


def test_the_start_is_the_larger_of_both_rules() -> None:
    assert first_kept(1000, 0.05, 0.1) == 300
    assert first_kept(100, 0.05, 0.1) == math.ceil(1.5 * smallest_sample(0.05, 0.1)) == 68


def test_without_an_error_everything_is_kept() -> None:
    result = walk(falling(100), [0] * 100)
    assert result.certified is not None
    assert (result.certified.n, result.certified.k, result.certified.coverage) == (100, 0, 1.0)
    assert result.certified.threshold == 0.0
    assert len(result.steps) == 71


def test_the_walk_stops_at_the_first_failure_and_looks_no_further() -> None:
    # 60 right, 20 wrong, then so many right ones that a later threshold would pass again.
    errors = [0] * 60 + [1] * 20 + [0] * 120
    result = walk(falling(200), errors)
    assert result.certified is not None
    assert result.steps[-1].p_value > 0.2
    assert all(step.p_value <= 0.2 for step in result.steps[:-1])
    assert result.certified.n == result.steps[-2].kept < 80
    assert upper_bound(20, 200, 0.2) <= 0.2  # the one it did not look at


def test_a_failure_at_the_start_certifies_nothing() -> None:
    result = walk(falling(100), [1] * 30 + [0] * 70)
    assert result.certified is None
    assert len(result.steps) == 1


def test_too_few_samples_certify_nothing() -> None:
    result = walk(falling(10), [0] * 10, alpha=0.05, delta=0.1)
    assert result.certified is None
    assert result.steps == ()
    assert result.start == 68


def test_the_threshold_keeps_what_was_counted_and_not_the_next() -> None:
    errors = [0] * 60 + [1] * 40
    scores = falling(100)
    result = walk(scores, errors)
    assert result.certified is not None
    kept = [error for score, error in zip(scores, errors, strict=True)
            if score >= result.certified.threshold]  # fmt: skip
    assert (len(kept), sum(kept)) == (result.certified.n, result.certified.k)
    following = sorted(scores, reverse=True)[result.certified.n]
    assert result.certified.threshold == math.nextafter(following, 1)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=30, max_size=200),
    st.floats(0.05, 0.5),
    st.floats(0.05, 0.5),
)
def test_whatever_is_certified_proves_itself(
    rows: list[tuple[int, bool]], alpha: float, delta: float
) -> None:
    scores = np.array([score / 5 for score, _ in rows])  # many ties
    errors = np.array([error for _, error in rows])
    result = learn_then_test(scores, errors, alpha=alpha, delta=delta)
    kept = [step.kept for step in result.steps]
    assert kept == sorted(set(kept))
    if result.certified is not None:
        found = result.certified
        inside = scores >= found.threshold
        assert (int(inside.sum()), int(errors[inside].sum())) == (found.n, found.k)
        assert found.n >= result.start
        assert found.upper <= alpha + 1e-9
        assert found.upper == pytest.approx(upper_bound(found.k, found.n, delta))


@given(st.permutations(list(range(60))))
def test_the_order_of_samples_does_not_matter(order: list[int]) -> None:
    scores, errors = falling(60), [int(place % 9 == 8) for place in range(60)]
    shuffled = walk([scores[at] for at in order], [errors[at] for at in order])
    assert shuffled == walk(scores, errors)


@pytest.mark.parametrize(
    ("scores", "errors"),
    [([], []), ([0.5], [0, 1]), ([1.5], [0]), ([math.nan], [0]), ([0.5], [2]), ([[0.5]], [[0]])],
)
def test_what_is_no_calibration_set_is_refused(scores: object, errors: object) -> None:
    with pytest.raises(ValueError, match=r"scores|errors"):
        learn_then_test(scores, errors, alpha=0.1, delta=0.1)  # type: ignore[arg-type]


def risk(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 0.005 + 0.5 * (1 - scores) ** 3


def true_error(threshold: float) -> float:
    """The mean of `risk` over [threshold, 1]."""
    width = 1 - threshold
    return 0.005 + 0.5 * width**3 / 4


def test_alpha_is_broken_at_most_as_often_as_promised() -> None:
    generator = np.random.default_rng(17)
    alpha, delta, resamples = 0.05, 0.1, 400
    broken, coverage = 0, []
    for _ in range(resamples):
        scores = generator.random(600)
        errors = generator.random(600) < risk(scores)
        found = learn_then_test(scores, errors, alpha=alpha, delta=delta).certified
        coverage.append(0.0 if found is None else 1 - found.threshold)
        broken += found is not None and true_error(found.threshold) > alpha
    best = (4 * (alpha - 0.005) / 0.5) ** (1 / 3)
    assert broken / resamples <= delta + 3 * math.sqrt(delta * (1 - delta) / resamples)
    assert broken / resamples > 0.02  # else it would be timid, not right
    assert np.mean(coverage) > 0.8 * best
