"""The learned line follows the box."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.scheduler.cost import StepCost


@given(st.floats(0, 100), st.floats(0.01, 10))
def test_two_sizes_teach_the_line(base_ms: float, slope_ms: float) -> None:
    cost = StepCost()
    for tokens in (1, 100, 1, 100):
        cost.observe(tokens, base_ms + slope_ms * tokens)
    assert cost.step_ms(50) == pytest.approx(base_ms + slope_ms * 50, rel=0.01, abs=0.05)


@given(st.lists(st.tuples(st.integers(1, 512), st.floats(0, 1000)), min_size=1, max_size=50))
def test_a_budget_is_never_exceeded_by_its_own_tokens(seen: list[tuple[int, float]]) -> None:
    cost = StepCost()
    for tokens, ms in seen:
        cost.observe(tokens, ms)
    assert cost.base_ms >= 0.0
    assert cost.slope_ms > 0.0
    count = cost.tokens_within(100.0)
    assert count == 0 or cost.step_ms(count) <= 100.0 + 1e-6
    assert cost.step_ms(count + 2) > 100.0 - 1e-6


def test_one_size_moves_the_base_only() -> None:
    cost = StepCost(base_ms=30.0, slope_ms=2.0)
    for _ in range(20):
        cost.observe(4, 20.0)
    assert cost.slope_ms == pytest.approx(2.0)
    assert cost.step_ms(4) == pytest.approx(20.0)


def test_a_box_that_slows_down_is_followed() -> None:
    cost = StepCost()
    for factor in (1.0, 3.0):
        for step in range(200):
            tokens = 1 + 63 * (step % 2)
            cost.observe(tokens, factor * (10.0 + tokens))
    assert cost.step_ms(32) == pytest.approx(3.0 * 42.0, rel=0.05)
