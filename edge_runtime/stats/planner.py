"""How much has to be watched before a test can tell: asked before it starts.

Rules
- Expected numbers under the stated effect, by the growth of the log evidence per observation
  (Wald's approximation). Overshoot makes real ones longer, and single runs vary widely: plan
  with slack.
- A wave that cannot see the drop it guards against in its time should be larger or longer; that
  is for the caller to refuse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge_runtime.stats.cusum import BernoulliCusum
from edge_runtime.stats.difference import STAKES
from edge_runtime.stats.eprocess import ODDS, alternatives
from edge_runtime.stats.sprt import boundaries


def pairs_until_halt(
    drop: float,
    discordance: float,
    *,
    loss_share: float = 2 / 3,
    false_halt: float = 0.05,
    missed: float = 0.10,
) -> float:
    """Mean paired requests until `PairedSprt` ends when accuracy really falls by `drop`.

    `discordance`: share of requests in which exactly one of the two is right; at least `drop`.
    `inf` when the drop is too small for this `loss_share` to halt on.
    """
    if not 0 < drop <= discordance <= 1:
        raise ValueError(f"needs 0 < drop <= discordance <= 1, not {drop}, {discordance}")
    p = (discordance + drop) / (2 * discordance)
    growth = p * math.log(2 * loss_share) + (1 - p) * math.log(2 * (1 - loss_share))
    halt, accept = boundaries(false_halt, missed)
    if growth <= 0:
        return math.inf
    return ((1 - missed) * halt + missed * accept) / growth / discordance


def observations_until_alarm(
    rate: float, p0: float, level: float, odds: Sequence[float] = ODDS
) -> float:
    """Mean observations until `BettingProcess` alarms at a true `rate`; `inf` if it never grows."""
    growth = max(_likelihood_growth(rate, p0, p1) for p1 in alternatives(p0, odds))
    return math.inf if growth <= 0 else math.log(len(odds) / level) / growth


def requests_until_cusum(rate: float, cusum: BernoulliCusum) -> float:
    """Mean observations until `cusum` alarms at a true `rate`; `inf` where it drifts to 0."""
    growth = _likelihood_growth(rate, cusum.p0, cusum.p1)
    return math.inf if growth <= 0 else cusum.h / growth


def box_pairs_until_verdict(
    effect: float,
    spread: float,
    tolerance: float,
    *,
    level: float = 0.05,
    stakes: Sequence[float] = STAKES,
) -> float:
    """Mean pairs until `DifferenceInDifferences` says FAIL (effect < -tolerance) or PASS.

    `spread` is the standard deviation of a pair's value: sqrt(2) times that of one box's
    difference. `inf` when the effect lies on the tolerance.
    """
    if spread < 0 or tolerance < 0:
        raise ValueError("spread and tolerance are not negative")
    distance = abs(effect + tolerance)
    second = spread**2 + distance**2
    growth = max(stake * distance - stake**2 * second / 2 for stake in stakes)
    return math.inf if growth <= 0 else math.log(len(stakes) / level) / growth


def detectable_drop(
    box_pairs: int, spread: float, tolerance: float, *, level: float = 0.05
) -> float:
    """The smallest true drop, up to 1 beyond `tolerance`, that `box_pairs` pairs show as FAIL.

    `inf` when so few pairs show none: each adds at most 1/2 to the log evidence.
    """
    low, high = tolerance, tolerance + 1.0
    if box_pairs_until_verdict(-high, spread, tolerance, level=level) > box_pairs:
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        if box_pairs_until_verdict(-middle, spread, tolerance, level=level) > box_pairs:
            low = middle
        else:
            high = middle
    return high


def _likelihood_growth(rate: float, p0: float, p1: float) -> float:
    return rate * math.log(p1 / p0) + (1 - rate) * math.log((1 - p1) / (1 - p0))
