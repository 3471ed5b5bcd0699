"""The native kernels give exact sums, and a row's bits never depend on its company."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.native import SETS, Native, expected, quantized

shapes = st.tuples(
    st.integers(1, 40),  # rows: several tiles of every set
    st.one_of(st.integers(1, 70), st.sampled_from([128, 255, 896])),
    st.one_of(st.integers(1, 100), st.sampled_from([128, 160])),
)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module", params=SETS)
def kernels(request: pytest.FixtureRequest, native: Native) -> str:
    if not native.has(request.param):
        pytest.skip(f"{request.param} NOT TESTED: this processor does not have it")
    return str(request.param)


def make(rng: np.random.Generator, m: int, k: int, n: int) -> tuple[np.ndarray, ...]:
    x = (rng.standard_normal((m, k)) * 10 ** rng.uniform(-4, 4, (m, 1))).astype(np.float32)
    weights = rng.integers(-128, 128, (k, n)).astype(np.int8)
    scale = rng.uniform(1e-4, 1e-2, n).astype(np.float32)
    return x, weights, scale, rng.standard_normal(n).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=seeds, transposed=st.booleans())
def test_sums_equal_numpys(
    native: Native, kernels: str, shape: tuple[int, int, int], seed: int, transposed: bool
) -> None:
    m, k, n = shape
    x, weights, scale, _ = make(np.random.default_rng(seed), m, k, n)
    stored = weights.T if transposed else weights
    with native.layer(stored, scale, transposed=transposed, name=kernels) as layer:
        got = native.sums(layer, x, n)
    rows, _ = quantized(x)
    np.testing.assert_array_equal(got, rows @ weights.astype(np.int32))


@settings(max_examples=25, deadline=None)
@given(shape=shapes, seed=seeds, biased=st.booleans())
def test_results_equal_the_stated_arithmetic_bit_for_bit(
    native: Native, kernels: str, shape: tuple[int, int, int], seed: int, biased: bool
) -> None:
    m, k, n = shape
    x, weights, scale, bias = make(np.random.default_rng(seed), m, k, n)
    with native.layer(weights, scale, bias if biased else None, name=kernels) as layer:
        got = native.run(layer, x, n)
    np.testing.assert_array_equal(got, expected(x, weights, scale, bias if biased else None))


@settings(max_examples=25, deadline=None)
@given(shape=shapes, seed=seeds, gated=st.booleans())
def test_a_row_alone_equals_the_row_in_company(
    native: Native, kernels: str, shape: tuple[int, int, int], seed: int, gated: bool
) -> None:
    m, k, n = shape
    rng = np.random.default_rng(seed)
    x, weights, scale, _ = make(rng, m, k, n)
    if gated:
        weights, scale = np.hstack([weights, weights[::-1]]), np.tile(scale, 2)
    with native.layer(weights, scale, gated=gated, name=kernels) as layer:
        together = native.run(layer, x, n)
        alone = np.concatenate([native.run(layer, row[None], n) for row in x])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("m", [1, 5, 20])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_harms_no_other(
    native: Native, kernels: str, m: int, poison: float
) -> None:
    x, weights, scale, _ = make(np.random.default_rng(m), m + 1, 100, 48)
    with native.layer(weights, scale, name=kernels) as layer:
        clean = native.run(layer, x, 48)
        x[m, 3] = poison
        got = native.run(layer, x, 48)
    np.testing.assert_array_equal(got[:m], clean[:m])
    assert not np.isfinite(got[m]).any()


def test_a_row_of_zeros_gives_the_bias(native: Native, kernels: str) -> None:
    x, weights, scale, bias = make(np.random.default_rng(1), 3, 64, 40)
    x[1] = 0
    with native.layer(weights, scale, bias, name=kernels) as layer:
        np.testing.assert_array_equal(native.run(layer, x, 40)[1], bias)


def test_ties_go_to_even(native: Native, kernels: str) -> None:
    x = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 64]], np.float32)
    weights = np.eye(8, dtype=np.int8)
    with native.layer(weights, np.ones(8, np.float32), name=kernels) as layer:
        got = native.sums(layer, x, 8)
    rows, _ = quantized(x)
    np.testing.assert_array_equal(got, rows)


@pytest.mark.parametrize("m", [1, 3, 17])
@pytest.mark.parametrize("transposed", [False, True])
def test_gating_is_silu_times_up(native: Native, kernels: str, m: int, transposed: bool) -> None:
    rng = np.random.default_rng(m)
    x, gate, scale, bias = make(rng, m, 96, 70)
    _, up, up_scale, up_bias = make(rng, m, 96, 70)
    x /= np.abs(x).max(axis=1, keepdims=True)
    with native.layer(
        np.hstack([gate, up]).T if transposed else np.hstack([gate, up]),
        np.concatenate([scale, up_scale]),
        np.concatenate([bias * 30, up_bias]),
        gated=True,
        transposed=transposed,
        name=kernels,
    ) as layer:
        got = native.run(layer, x, 70)
    g = expected(x, gate, scale, bias * 30).astype(np.float64)
    want = g / (1 + np.exp(-g)) * expected(x, up, up_scale, up_bias)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-30)


@settings(max_examples=25, deadline=None)
@given(
    shape=shapes,
    seed=seeds,
    zero=st.sampled_from([0, 64, 100]),
    levels=st.sampled_from([127, 191, 255]),
)
def test_one_sided_rows_equal_the_stated_arithmetic(
    native: Native, kernels: str, shape: tuple[int, int, int], seed: int, zero: int, levels: int
) -> None:
    """Some entries lie below what the grid can hold: they become its lowest code."""
    m, k, n = shape
    x, weights, scale, bias = make(np.random.default_rng(seed), m, k, n)
    x = np.where(x > 0, x, x * np.float32(0.1)).astype(np.float32)
    x[0] = -np.abs(x[0])
    codes = {"zero": zero, "levels": levels, "floor": 0.5 if zero else 0.0}
    with native.layer(weights, scale, bias, name=kernels, **codes) as layer:
        got = native.run(layer, x, n)
    np.testing.assert_array_equal(got, expected(x, weights, scale, bias, **codes))


@pytest.mark.parametrize("zero", [0, 64])
def test_a_one_sided_row_that_is_not_finite_says_so(
    native: Native, kernels: str, zero: int
) -> None:
    x, weights, scale, _ = make(np.random.default_rng(9), 3, 40, 32)
    x[0, 1], x[2, 5] = np.nan, -np.inf
    with native.layer(weights, scale, zero=zero, name=kernels) as layer:
        got = native.run(layer, x, 32)
    assert not np.isfinite(got[[0, 2]]).any()
    assert np.isfinite(got[1]).all()


def test_the_longest_row_does_not_overflow(native: Native, kernels: str) -> None:
    k = 65536
    x = np.full((1, k), 3.0, np.float32)
    weights = np.full((k, 2), -128, np.int8)
    weights[:, 1] = 127
    scale = np.ones(2, np.float32)
    with native.layer(weights, scale, name=kernels) as layer:
        got = native.sums(layer, x, 2)
    assert got.tolist() == [[-127 * 128 * k, 127 * 127 * k]]
    with native.layer(np.zeros((k + 1, 1), np.int8), scale[:1], name=kernels) as refused:
        assert refused is None


def test_all_sets_give_the_same_bits(native: Native) -> None:
    x, weights, scale, bias = make(np.random.default_rng(5), 9, 333, 150)
    results = []
    for name in SETS:
        with native.layer(weights, scale, bias, gated=True, name=name) as layer:
            if layer is not None:
                results.append(native.run(layer, x, 75))
    assert results
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_no_rows_is_no_work(native: Native, kernels: str) -> None:
    with native.layer(np.ones((4, 4), np.int8), np.ones(4, np.float32), name=kernels) as layer:
        assert native.run(layer, np.zeros((0, 4), np.float32), 4).shape == (0, 4)


def test_equal_weights_are_packed_once_and_freed_with_their_last_user(native: Native) -> None:
    before = native.held()
    _, weights, scale, _ = make(np.random.default_rng(7), 1, 50, 60)
    other = weights.copy()
    other[0, 0] ^= 1
    with native.layer(weights, scale):
        with (
            native.layer(weights.copy(), scale),
            native.layer(weights.T, scale, transposed=True),
        ):
            assert native.held() == before + 1
        with native.layer(other, scale):
            assert native.held() == before + 2
        assert native.held() == before + 1
    assert native.held() == before


def test_many_layers_leave_nothing_behind(native: Native) -> None:
    before = native.held()
    rng = np.random.default_rng(11)
    for turn in range(30):
        x, weights, scale, _ = make(rng, 2, 64 + turn, 64)
        with native.layer(weights, scale) as layer:
            np.testing.assert_array_equal(native.run(layer, x, 64), expected(x, weights, scale))
    assert native.held() == before
