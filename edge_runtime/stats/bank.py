"""A bank of bets on means that should not rise: fast alarms and a claim, over one stream.

Each observation is a row of M values in [0, 1]; of each, "the mean is at most p0" is watched.
Two rules look at the same bets:

- The e-process: capital of all bets together, as in `eprocess`, started anew every `epoch`
  observations. Capital that only ever shrinks for a long quiet time could not see a change that
  comes late. The k-th start (k = 1, 2, ...) spends `level` / (k (k + 1)); these shares add up to
  `level`, so the chance of ever alarming falsely still is at most `level`.
- CUSUMs, as in `cusum`: for each value one tuned to each of a few rises, since one tuned to a
  large rise is blind to a small one. Their limits follow from the mean number of observations
  between false alarms that is wanted of all of them together.

Rules
- The claim holds for every stream whose conditional means are at most `p0`, not only for one
  stationary stream: tolerance is put into `p0`.
- Both alarms stay. The whole state is `BankState`; a restored bank goes on as if nothing had
  happened.
- An observation costs some ten numpy calls on arrays of M x bets: tens of microseconds.

Sources: Ville's inequality; Shin, Ramdas, Rinaldo, E-detectors, arXiv 2203.03532 (CUSUM of
bounded values); Siegmund, Sequential Analysis, 1985, II.6 (run length of a CUSUM).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_runtime.stats.eprocess import ODDS, alternatives

Floats = npt.NDArray[np.float64]
RISES = (1.25, 2.0)
"""What CUSUMs are tuned to, as multiples of the odds of p0."""
RECENT = 100  # observations that `means` looks back on


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How a bank alarms.

    `level`: chance that the e-process ever alarms falsely. `epoch`: observations until it starts
    again. `odds`: its bets, as multiples of the odds of p0. `rises`: what the CUSUMs are tuned
    to, in the same way. `between`: mean observations between false alarms of all CUSUMs.
    """

    level: float
    epoch: int
    between: float
    rises: Sequence[float] = RISES
    odds: Sequence[float] = ODDS

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and self.epoch >= 1 and self.between > 1):
            raise ValueError("needs 0 < level < 1, epoch >= 1 and between > 1")
        both = (*self.odds, *self.rises)
        if not (self.odds and self.rises and all(1 < one < math.inf for one in both)):
            raise ValueError("rises and odds are some numbers above 1")


@dataclass(frozen=True, slots=True)
class BankState:
    """Everything a bank knows; `key` names the bets it belongs to."""

    key: str
    seen: int
    log_capitals: list[float]
    cusums: list[float]
    means: list[float]
    e_alarmed: bool
    cusum_alarmed: bool


@dataclass(slots=True)
class BettingBank:
    """Watches rows of values in [0, 1] whose means should be at most `p0` [M]."""

    p0: Sequence[float]
    tuning: Tuning
    seen: int = 0
    e_alarmed: bool = False
    cusum_alarmed: bool = False
    _means: Floats = field(init=False, repr=False)
    _p0: Floats = field(init=False, repr=False)
    _stakes: Floats = field(init=False, repr=False)
    _rises: Floats = field(init=False, repr=False)
    _limits: Floats = field(init=False, repr=False)
    _log_capitals: Floats = field(init=False, repr=False)
    _cusums: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises `ValueError` without a rate, or for rates outside (0, 1)."""
        if not self.p0 or not all(0 < one < 1 for one in self.p0):
            raise ValueError(f"needs rates between 0 and 1, not {list(self.p0)}")
        self._p0 = np.asarray(self.p0, np.float64)
        self._stakes = np.asarray([_stakes(one, self.tuning.odds) for one in self.p0])
        self._rises = np.asarray([_stakes(one, self.tuning.rises) for one in self.p0])
        between = self.tuning.between * self._rises.size
        self._limits = np.asarray(
            [
                [cusum_limit(one, p1, between) for p1 in alternatives(one, self.tuning.rises)]
                for one in self.p0
            ]
        )
        self._log_capitals = np.zeros_like(self._stakes)
        self._cusums = np.zeros_like(self._rises)
        self._means = np.zeros_like(self._p0)

    def observe(self, values: Sequence[float] | Floats) -> bool:
        """Take one row of M values in [0, 1]; True from the first alarm of either rule on."""
        row = np.asarray(values, np.float64)
        if row.shape != self._p0.shape or not bool(np.all((row >= 0) & (row <= 1))):
            raise ValueError(f"an observation is {len(self._p0)} values in [0, 1], not {values}")
        excess = row - self._p0
        self.seen += 1
        self._means += (row - self._means) / min(self.seen, RECENT)
        self._log_capitals += np.log1p(self._stakes * excess[:, None])
        self._cusums = np.maximum(0.0, self._cusums + np.log1p(self._rises * excess[:, None]))
        self.e_alarmed = self.e_alarmed or self.log_capital >= -math.log(self._level())
        self.cusum_alarmed = self.cusum_alarmed or bool(np.any(self._cusums > self._limits))
        if self.seen % self.tuning.epoch == 0:
            self._log_capitals[:] = 0.0
        return self.e_alarmed or self.cusum_alarmed

    @property
    def log_capital(self) -> float:
        """Natural logarithm of this epoch's evidence: the mean over all bets."""
        return float(np.logaddexp.reduce(self._log_capitals.ravel())) - math.log(
            self._log_capitals.size
        )

    @property
    def loudest(self) -> int:
        """Which of the M values stands out most, by the rule that alarmed, or the evidence."""
        if self.cusum_alarmed and not self.e_alarmed:
            return int(np.argmax((self._cusums / self._limits).max(axis=1)))
        return int(np.argmax(self._log_capitals.max(axis=1)))

    @property
    def means(self) -> tuple[float, ...]:
        """Recent mean of each value, for people: old ones fade with a memory of `RECENT`."""
        return tuple(self._means.tolist())

    def state(self) -> BankState:
        """What `restore` needs."""
        return BankState(
            self._key(),
            self.seen,
            self._log_capitals.ravel().tolist(),
            self._cusums.ravel().tolist(),
            self._means.tolist(),
            self.e_alarmed,
            self.cusum_alarmed,
        )

    def restore(self, state: BankState) -> bool:
        """Go on from `state`; False, and nothing done, when it belongs to other bets."""
        sizes = (len(state.log_capitals), len(state.cusums), len(state.means))
        if state.key != self._key() or sizes != (
            self._stakes.size,
            self._rises.size,
            len(self._p0),
        ):
            return False
        self.seen = state.seen
        self._log_capitals = np.asarray(state.log_capitals).reshape(self._stakes.shape)
        self._cusums = np.asarray(state.cusums, np.float64).reshape(self._rises.shape)
        self._means = np.asarray(state.means, np.float64)
        self.e_alarmed, self.cusum_alarmed = state.e_alarmed, state.cusum_alarmed
        return True

    def _level(self) -> float:
        start = (self.seen - 1) // self.tuning.epoch + 1
        return self.tuning.level / (start * (start + 1))

    def _key(self) -> str:
        tuning = self.tuning
        rates = ",".join(f"{one:.9g}" for one in self.p0)
        bets = ",".join(f"{one:.9g}" for one in (*tuning.odds, *tuning.rises))
        return f"{rates}|{bets}|{tuning.level:.9g},{tuning.epoch},{tuning.between:.9g}"


def cusum_limit(p0: float, p1: float, between: float) -> float:
    """The h at which a CUSUM of p1 against p0 alarms falsely once in about `between` observations.

    From Siegmund's (e^h - h - 1) / K = between, with K the mean loss an observation at p0; the
    overshoot that is left out makes real distances longer. At least 1.
    """
    loss = -(p0 * math.log(p1 / p0) + (1 - p0) * math.log((1 - p1) / (1 - p0)))
    wanted = between * loss
    low, high = 1.0, 700.0
    if math.exp(low) - low - 1 >= wanted:
        return low
    while high - low > 1e-9:
        middle = (low + high) / 2
        if math.exp(middle) - middle - 1 < wanted:
            low = middle
        else:
            high = middle
    return high


def _stakes(p0: float, odds: Sequence[float]) -> list[float]:
    # Tuned to p1, the factor 1 + stake * (x - p0) is the likelihood ratio of p1 to p0.
    return [(p1 - p0) / (p0 * (1 - p0)) for p1 in alternatives(p0, odds)]
