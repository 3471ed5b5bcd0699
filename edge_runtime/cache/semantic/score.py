"""How surely two texts want the same answer: one number in [0, 1]. Pure.

Rules
- A logistic regression over the measures of `likeness` and their products in pairs. It lies in
  `score.json`, with the encoder it was fitted for, how rare words are, and the threshold that
  was certified; `python -m benchmarks.semantic_pairs fit` writes the file.
- A measure outside what the fit saw counts as the end of what it saw: products grow fast, and
  nothing may score high for being strange.
- Only for pairs that passed the gates: without them no threshold on a cosine keeps false hits
  below 1 % (docs/benchmarks/semantic_cache.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from edge_runtime.cache.semantic.likeness import FEATURES, Rarity, features

Floats = npt.NDArray[np.float64]
TERMS = (
    *FEATURES,
    *(f"{one}*{other}" for one, other in combinations_with_replacement(FEATURES, 2)),
)
_UPPER = np.triu_indices(len(FEATURES))


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """How measures are brought to one scale; each [features]."""

    means: Floats
    deviations: Floats
    lowest: Floats
    highest: Floats

    @classmethod
    def of(cls, rows: Floats) -> Scales:
        """The scales of measures [rows, features]."""
        deviations = np.maximum(rows.std(axis=0), 1e-6)
        return cls(rows.mean(axis=0), deviations, rows.min(axis=0), rows.max(axis=0))

    def terms(self, rows: Floats) -> Floats:
        """The values of `TERMS` [rows, terms] for measures [rows, features]."""
        scaled = self.scaled(rows)
        products = scaled[:, _UPPER[0]] * scaled[:, _UPPER[1]]
        return np.hstack([scaled, products])

    def scaled(self, rows: Floats) -> Floats:
        """Measures [..., features] on one scale, cut to what the fit saw."""
        inside: Floats = np.minimum(np.maximum(rows, self.lowest), self.highest)
        return (inside - self.means) / self.deviations


@dataclass(frozen=True, eq=False)
class Scorer:
    """A fitted score. `threshold` was certified at `alpha`, `delta` for pairs like those fitted.

    `weights` [terms] belong to the values of `Scales.terms`.
    """

    rarity: Rarity
    scales: Scales
    bias: float
    weights: Floats
    encoder: str
    threshold: float
    alpha: float
    delta: float

    def score(self, first: str, second: str, cosine: float) -> float:
        """The score of two texts whose embeddings have this cosine. Takes some 0.05 ms."""
        row = self.scales.scaled(np.array(features(first, second, cosine, self.rarity)))
        linear, products = self._parts
        total = self.bias + float((linear + products @ row) @ row)
        return 1 / (1 + math.exp(-total)) if total > -700 else 0.0

    @cached_property
    def _parts(self) -> tuple[Floats, Floats]:
        """The weights of measures [features] and of their products [features, features]."""
        products = np.zeros((len(FEATURES), len(FEATURES)))
        products[_UPPER] = self.weights[len(FEATURES) :]
        return self.weights[: len(FEATURES)], products


@cache
def shipped() -> Scorer:
    """The score that comes with the package."""
    return decode(files("edge_runtime.cache.semantic").joinpath("score.json").read_bytes())


def decode(data: bytes) -> Scorer:
    """A scorer from the JSON of `score.json`. Raises `ValueError` when it fits another version."""
    value = orjson.loads(data)
    if tuple(value["scales"]) != FEATURES or tuple(value["weights"]) != TERMS:
        raise ValueError("the score was fitted for other measures; fit it anew")
    rarity = value["rarity"]
    scales = np.array(list(value["scales"].values()), np.float64).T
    return Scorer(
        Rarity(int(rarity["texts"]), int(rarity["least"]), rarity["counts"]),
        Scales(*scales),
        float(value["bias"]),
        np.array(list(value["weights"].values()), np.float64),
        value["encoder"],
        float(value["threshold"]),
        float(value["alpha"]),
        float(value["delta"]),
    )


def encode(scorer: Scorer, fitted: Mapping[str, float]) -> bytes:
    """The content of `score.json`; `fitted` says how the threshold came about."""
    scales = scorer.scales
    rows = zip(scales.means, scales.deviations, scales.lowest, scales.highest, strict=True)
    value: dict[str, Any] = {
        "encoder": scorer.encoder,
        "alpha": scorer.alpha,
        "delta": scorer.delta,
        "threshold": scorer.threshold,
        "fitted": dict(fitted),
        "bias": scorer.bias,
        "scales": {
            name: [float(one) for one in row] for name, row in zip(FEATURES, rows, strict=True)
        },
        "weights": dict(zip(TERMS, scorer.weights.tolist(), strict=True)),
        "rarity": {
            "texts": scorer.rarity.texts,
            "least": scorer.rarity.least,
            "counts": dict(sorted(scorer.rarity.counts.items())),
        },
    }
    return orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"
