"""Exact one-sided bounds of a probability from k errors in n independent trials.

Clopper and Pearson, Biometrika 26, 1934. Each bound holds with probability at least 1 - delta
whatever the true probability is; nothing is approximated, small n included. Asking both
spends delta twice.
"""

from __future__ import annotations

from edge_runtime.stats.beta import betainc, betainc_inverse


def upper_bound(k: int, n: int, delta: float) -> float:
    """U with P(p > U) <= delta: the 1 - delta quantile of Beta(k + 1, n - k); 1 when k = n.

    Raises `ValueError` unless 0 <= k <= n, n >= 1 and 0 < delta < 1.
    """
    _check(k, n, delta)
    return 1.0 if k == n else betainc_inverse(k + 1, n - k, 1 - delta)


def lower_bound(k: int, n: int, delta: float) -> float:
    """L with P(p < L) <= delta: the delta quantile of Beta(k, n - k + 1); 0 when k = 0."""
    _check(k, n, delta)
    return 0.0 if k == 0 else betainc_inverse(k, n - k + 1, delta)


def p_value(k: int, n: int, alpha: float) -> float:
    """P(Bin(n, alpha) <= k): how well k errors in n agree with an error rate above alpha.

    `p_value(k, n, alpha) <= delta` says the same as `upper_bound(k, n, delta) <= alpha`, for
    one evaluation instead of a search.
    """
    _check(k, n, alpha)
    return 1.0 if k == n else 1.0 - betainc(k + 1, n - k, alpha)


def _check(k: int, n: int, level: float) -> None:
    if not (0 <= k <= n and n >= 1 and 0 < level < 1):
        raise ValueError(f"needs 0 <= k <= n, n >= 1, 0 < level < 1, not k={k}, n={n}, {level}")
