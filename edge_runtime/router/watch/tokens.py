"""Is the mean number of tokens a request still what it was? Pure.

Rules
- Tokens are unbounded and a few requests are very long, so each counts up to a cap: four times the
  expected mean, at most the cap of the settings. What is watched is the mean of tokens / cap.
- The expected mean is set, or learnt: the first hundred requests give the cap, the next ones (by
  the settings) the mean. While it learns it does not alarm.
- A learnt mean is taken 3.3 standard errors away from where it lies (99.9 % by the normal
  approximation), then the tolerance of the settings is added: both ways, more or fewer tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edge_runtime.router.watch.settings import DriftSettings
from edge_runtime.stats.bank import BankState, BettingBank, Tuning

CAP_REQUESTS = 100
CAP_MEANS = 4.0
STANDARD_ERRORS = 3.3
_ENDS = (0.001, 0.999)


@dataclass(frozen=True, slots=True)
class TokensState:
    """What was learnt, and the bank once learning is over."""

    seen: int = 0
    first_sum: float = 0.0
    cap: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    bank: BankState | None = None


@dataclass(slots=True)
class TokensWatch:
    """Learns, then watches. `bank` is None while it learns."""

    settings: DriftSettings
    tuning: Tuning
    bank: BettingBank | None = field(init=False, default=None)
    _seen: int = field(init=False, default=0)
    _first_sum: float = field(init=False, default=0.0)
    _cap: float = field(init=False, default=0.0)
    _total: float = field(init=False, default=0.0)
    _squares: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        if self.settings.tokens_mean is not None:
            self._cap = self._cap_for(self.settings.tokens_mean)
            self._watch(min(1.0, self.settings.tokens_mean / self._cap), 0.0)

    def observe(self, tokens: int) -> None:
        """Take one request's tokens."""
        if self.bank is not None:
            value = min(tokens, self._cap) / self._cap
            self.bank.observe((value, 1.0 - value))
            return
        self._seen += 1
        if self._seen <= CAP_REQUESTS:
            self._first_sum += tokens
            if self._seen == CAP_REQUESTS:
                self._cap = self._cap_for(self._first_sum / CAP_REQUESTS)
            return
        value = min(tokens, self._cap) / self._cap
        self._total += value
        self._squares += value * value
        self._watch_if_learnt()

    def words(self) -> str:
        """What is out of the ordinary, for people."""
        if self.bank is None:
            return "the expected mean is not learnt yet"
        lately = self.bank.means[0] * self._cap
        low, high = (1 - self.bank.p0[1]) * self._cap, self.bank.p0[0] * self._cap
        return f"lately {lately:.0f} tokens a request; {low:.0f} to {high:.0f} are expected"

    def state(self) -> TokensState:
        """What `restore` needs."""
        return TokensState(
            self._seen,
            self._first_sum,
            self._cap,
            self._total,
            self._squares,
            None if self.bank is None else self.bank.state(),
        )

    def restore(self, state: TokensState) -> None:
        """Go on from `state`."""
        if self.settings.tokens_mean is None:
            self._seen, self._first_sum, self._cap = state.seen, state.first_sum, state.cap
            self._total, self._squares = state.total, state.squares
            self._watch_if_learnt()
        if self.bank is not None and state.bank is not None:
            self.bank.restore(state.bank)

    def _cap_for(self, mean: float) -> float:
        return max(1.0, min(float(self.settings.tokens_cap), CAP_MEANS * mean))

    def _watch_if_learnt(self) -> None:
        learnt = self._seen - CAP_REQUESTS
        if learnt >= self.settings.tokens_baseline_requests:
            mean = self._total / learnt
            variance = max(0.0, self._squares / learnt - mean * mean)
            self._watch(mean, STANDARD_ERRORS * math.sqrt(variance / learnt))

    def _watch(self, mean: float, margin: float) -> None:
        room = 1 + self.settings.tokens_slack_share
        high = min(max((mean + margin) * room, _ENDS[0]), _ENDS[1])
        low = min(max((mean - margin) / room, _ENDS[0]), _ENDS[1])
        self.bank = BettingBank((high, 1 - low), self.tuning)
