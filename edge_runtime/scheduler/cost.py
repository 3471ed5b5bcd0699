"""What a step costs on this box, learned from the steps themselves.

A step of T packed tokens takes about `base + slope * T` milliseconds: reading the weights once,
then arithmetic for each token. Both are kept as an exponentially weighted least-squares line, so
that they follow a box that is throttled or shared. Pure: durations are handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

_DECAY = 0.98  # a step's weight halves after about 35 more
_PRIOR_WEIGHT = 1e-3  # keeps the line defined until two different sizes were seen


@dataclass(slots=True)
class StepCost:
    """The line; starts at a guess that one observation already outweighs.

    `base_ms` and `slope_ms` are never negative, so that a chunk size can always be derived.
    """

    base_ms: float = 30.0
    slope_ms: float = 2.0
    _weight: float = 0.0
    _tokens: float = 0.0
    _ms: float = 0.0
    _tokens_tokens: float = 0.0
    _tokens_ms: float = 0.0

    def observe(self, tokens: int, ms: float) -> None:
        """Take in one step of `tokens` packed tokens that took `ms`."""
        self._weight = self._weight * _DECAY + 1.0
        self._tokens = self._tokens * _DECAY + tokens
        self._ms = self._ms * _DECAY + ms
        self._tokens_tokens = self._tokens_tokens * _DECAY + tokens * tokens
        self._tokens_ms = self._tokens_ms * _DECAY + tokens * ms
        mean_tokens, mean_ms = self._tokens / self._weight, self._ms / self._weight
        spread = self._tokens_tokens / self._weight - mean_tokens**2
        together = self._tokens_ms / self._weight - mean_tokens * mean_ms
        # Without spread the old slope stays and only the base moves.
        slope = (together + _PRIOR_WEIGHT * self.slope_ms) / (max(spread, 0.0) + _PRIOR_WEIGHT)
        self.slope_ms = max(slope, 1e-4)
        self.base_ms = max(mean_ms - self.slope_ms * mean_tokens, 0.0)

    def step_ms(self, tokens: int) -> float:
        """Expected milliseconds of a step of `tokens` packed tokens."""
        return self.base_ms + self.slope_ms * tokens

    def tokens_within(self, budget_ms: float) -> int:
        """Most packed tokens of a step expected to take at most `budget_ms`; 0 when none."""
        return max(0, int((budget_ms - self.base_ms) / self.slope_ms))
