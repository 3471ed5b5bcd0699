"""When somebody is told. Pure.

Rules
- A rule is an expression over `ALERT_NAMES`. It raises an alert once it has held for `for_s`
  without a break, and clears it when it holds no more.
- No answer is no news: while the values do not decide the expression, nothing is raised and
  nothing is cleared.
- What a rule raised stays one alert until it is cleared, however often rules are looked at.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from edge_runtime.agent.protocol import FailureKind, Health
from fleet.expr import Expression, UnknownValueError, compile_expression
from fleet.registry.summary import Summary
from fleet.rollout.signals import FIGURE_NAMES

_COUNTS: Final = (
    "boxes",
    *(health.value for health in Health),
    "pending",
    *(f"failed_{kind.value}" for kind in FailureKind),
)
_SHARES: Final = tuple(f"{health.value}_share" for health in Health)

ALERT_NAMES: Final[Mapping[str, type]] = MappingProxyType(
    {**dict.fromkeys(_COUNTS, int), **dict.fromkeys(_SHARES, float), **FIGURE_NAMES}
)
"""Counts of boxes, shares of active boxes, and figures of the whole fleet in about an hour."""


class Step(enum.StrEnum):
    """What follows from one look at a rule."""

    NOTHING = "nothing"
    HOLD = "hold"  # it holds, not for long enough yet
    RAISE = "raise"
    CLEAR = "clear"
    FORGET = "forget"  # it held for a while, and does not any more


@dataclass(frozen=True, slots=True)
class RuleState:
    """Since when a rule has held, and whether its alert is out."""

    holding_since_s: float | None = None
    raised: bool = False


def compile_rule(text: str) -> Expression:
    """The expression of a rule. Raises `ExpressionError`."""
    return compile_expression(text, ALERT_NAMES)


def look(
    expression: Expression,
    state: RuleState,
    values: Mapping[str, Any],
    *,
    for_s: float,
    now_s: float,
) -> Step:
    """What follows for a rule in this state."""
    try:
        holds = expression.evaluate(values) is True
    except UnknownValueError:
        return Step.NOTHING
    if not holds:
        if state.raised:
            return Step.CLEAR
        return Step.NOTHING if state.holding_since_s is None else Step.FORGET
    if state.raised:
        return Step.NOTHING
    since_s = now_s if state.holding_since_s is None else state.holding_since_s
    if now_s - since_s >= for_s:
        return Step.RAISE
    return Step.HOLD if state.holding_since_s is None else Step.NOTHING


def values_of(summary: Summary, figures: Mapping[str, float]) -> dict[str, Any]:
    """The values of `ALERT_NAMES`; shares are there only where there are boxes."""
    values: dict[str, Any] = {"boxes": summary.active, "pending": summary.pending, **figures}
    for kind in FailureKind:
        values[f"failed_{kind.value}"] = summary.failures.get(kind.value, 0)
    for health, count in summary.health.items():
        values[health.value] = count
        if summary.active:
            values[f"{health.value}_share"] = count / summary.active
    return values
