"""Golden values of the statistics, by scipy: `python tests/data/stats/make.py` writes them anew.

Not run by the tests: scipy is no dependency. Written with scipy 1.17.
"""

from __future__ import annotations

import json
from pathlib import Path

from scipy import special, stats

COUNTS = [(0, 1), (1, 1), (0, 45), (0, 44), (1, 10), (5, 10), (3, 100), (37, 1032), (8, 682),
          (999, 1000), (50, 5000), (12_345, 100_000)]  # fmt: skip
SHAPES = [(0.5, 0.5), (1, 1), (1, 45), (2, 3), (38, 995), (995, 38), (1e3, 1e5), (1e5, 1e5)]
LEVELS = [0.01, 0.05, 0.1, 0.5, 0.9, 0.99]


def upper(k: int, n: int, delta: float) -> float:
    return 1.0 if k == n else float(stats.beta.ppf(1 - delta, k + 1, n - k))


def lower(k: int, n: int, delta: float) -> float:
    return 0.0 if k == 0 else float(stats.beta.ppf(delta, k, n - k + 1))


def main() -> None:
    beta = []
    for a, b in SHAPES:
        for level in LEVELS:
            x = float(special.betaincinv(a, b, level))
            beta.append({"a": a, "b": b, "p": level, "x": x, "I": float(special.betainc(a, b, x))})
    bounds = [
        {"k": k, "n": n, "delta": delta, "upper": upper(k, n, delta), "lower": lower(k, n, delta)}
        for k, n in COUNTS
        for delta in (0.01, 0.05, 0.1)
    ]
    tails = [
        {"k": k, "n": n, "alpha": alpha, "p": float(stats.binom.cdf(k, n, alpha))}
        for k, n in COUNTS
        for alpha in (0.01, 0.05, 0.2)
    ]
    text = json.dumps({"beta": beta, "bounds": bounds, "tails": tails}, indent=1)
    Path(__file__).with_name("golden.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
