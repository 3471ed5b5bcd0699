"""Beta function and Clopper-Pearson bounds against scipy's values and against themselves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.stats.beta import betainc, betainc_inverse
from edge_runtime.stats.clopper_pearson import lower_bound, p_value, upper_bound

GOLDEN: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[2] / "data" / "stats" / "golden.json").read_text("utf-8")
)

shapes = st.floats(0.3, 1e4)
shares = st.floats(0.001, 0.999)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 3000))
    return draw(st.integers(0, n)), n


def test_beta_agrees_with_scipy() -> None:
    assert len(GOLDEN["beta"]) > 40
    for row in GOLDEN["beta"]:
        assert betainc(row["a"], row["b"], row["x"]) == pytest.approx(row["I"], abs=1e-9)
        assert betainc_inverse(row["a"], row["b"], row["p"]) == pytest.approx(row["x"], rel=1e-9)


def test_bounds_agree_with_scipy() -> None:
    assert len(GOLDEN["bounds"]) > 30
    for row in GOLDEN["bounds"]:
        k, n, delta = row["k"], row["n"], row["delta"]
        assert upper_bound(k, n, delta) == pytest.approx(row["upper"], rel=1e-9), row
        assert lower_bound(k, n, delta) == pytest.approx(row["lower"], rel=1e-9, abs=1e-15), row


def test_binomial_tails_agree_with_scipy() -> None:
    for row in GOLDEN["tails"]:
        assert p_value(row["k"], row["n"], row["alpha"]) == pytest.approx(row["p"], abs=1e-9), row


@pytest.mark.parametrize(
    ("a", "b", "x"), [(0, 1, 0.5), (1, -1, 0.5), (1, 1, 1.5), (1, 1, math.nan), (math.inf, 1, 0.5)]
)
def test_beta_refuses_what_lies_outside(a: float, b: float, x: float) -> None:
    with pytest.raises(ValueError, match="needs"):
        betainc(a, b, x)


@given(shapes, shapes, shares)
def test_inverse_undoes(a: float, b: float, p: float) -> None:
    x = betainc_inverse(a, b, p)
    assert 0 <= x <= 1
    if 1e-12 < x < 1 - 1e-12:  # beyond, one float step of x moves p
        assert betainc(a, b, x) == pytest.approx(p, abs=1e-7)


@given(shapes, shapes, shares)
def test_beta_mirrors(a: float, b: float, x: float) -> None:
    assert betainc(a, b, x) + betainc(b, a, 1 - x) == pytest.approx(1, abs=1e-9)


@given(counts(), shares)
def test_bounds_hold_the_observed_share(at: tuple[int, int], delta: float) -> None:
    k, n = at
    low, high = lower_bound(k, n, delta / 2), upper_bound(k, n, delta / 2)
    assert 0 <= low <= k / n + 1e-9
    assert k / n - 1e-9 <= high <= 1


@given(counts(), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_the_tail_and_the_bound_decide_alike(
    at: tuple[int, int], alpha: float, delta: float
) -> None:
    k, n = at
    bound = upper_bound(k, n, delta)
    if abs(bound - alpha) > 1e-7:
        assert (p_value(k, n, alpha) <= delta) == (bound <= alpha)


@given(counts(), st.floats(0.01, 0.5))
def test_more_errors_raise_the_bound(at: tuple[int, int], delta: float) -> None:
    k, n = at
    if k < n:
        assert upper_bound(k, n, delta) < upper_bound(k + 1, n, delta) + 1e-12
        assert lower_bound(k, n, delta) < lower_bound(k + 1, n, delta) + 1e-12


@pytest.mark.parametrize(("k", "n", "delta"), [(-1, 5, 0.1), (6, 5, 0.1), (0, 0, 0.1), (1, 5, 1.0)])
def test_impossible_counts_are_refused(k: int, n: int, delta: float) -> None:
    for function in (upper_bound, lower_bound, p_value):
        with pytest.raises(ValueError, match="needs 0 <= k"):
            function(k, n, delta)


def test_the_upper_bound_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    truth, n, delta = 0.04, 200, 0.1
    bounds = {k: upper_bound(k, n, delta) for k in range(60)}
    missed = np.mean([bounds[int(k)] < truth for k in generator.binomial(n, truth, 4000)])
    assert 0.02 < missed <= 0.1 + 3 * math.sqrt(0.09 / 4000)
