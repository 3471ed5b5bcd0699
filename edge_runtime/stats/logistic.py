"""Logistic regression on a few features: small enough to be read in a certificate.

Rules
- Features are standardised by the mean and deviation of the data that fitted them; both belong
  to the parameters.
- The fit is penalised, so it exists also where the classes separate, and it is deterministic:
  the same data give the same parameters.
- Fit on data that neither calibrate nor report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MAX_STEPS = 50
_DONE = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class Logistic:
    """P(y = 1 | x) = sigmoid(bias + sum_i weight_i * (x_i - mean_i) / deviation_i)."""

    names: tuple[str, ...]
    bias: float
    weights: Floats
    means: Floats
    deviations: Floats

    def probabilities(self, features: npt.ArrayLike) -> Floats:
        """Values [rows] of features [rows, len(names)]."""
        scaled = (np.asarray(features, np.float64) - self.means) / self.deviations
        return _sigmoid(self.bias + scaled @ self.weights)

    def parameters(self) -> dict[str, float]:
        """The model as numbers: `bias`, and `<name>.weight`, `.mean`, `.deviation` of each."""
        result = {"bias": self.bias}
        columns = zip(self.names, self.weights, self.means, self.deviations, strict=True)
        for name, weight, mean, deviation in columns:
            result[f"{name}.weight"] = float(weight)
            result[f"{name}.mean"] = float(mean)
            result[f"{name}.deviation"] = float(deviation)
        return result

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, float], names: Sequence[str]) -> Logistic:
        """The model of these numbers; `ValueError` unless they are exactly those of `names`."""
        parts = ("weight", "mean", "deviation")
        wanted = {"bias", *(f"{name}.{part}" for name in names for part in parts)}
        if set(parameters) != wanted:
            odd = sorted(wanted.symmetric_difference(parameters))
            raise ValueError(f"parameters do not fit this score's features: {', '.join(odd)}")
        weights, means, deviations = (
            np.array([parameters[f"{name}.{part}"] for name in names], np.float64) for part in parts
        )
        if not bool(np.all(deviations > 0)):
            raise ValueError("deviations must be above 0")
        return cls(tuple(names), float(parameters["bias"]), weights, means, deviations)


def fit_logistic(
    features: npt.ArrayLike, outcomes: npt.ArrayLike, names: Sequence[str], *, penalty: float = 1.0
) -> Logistic:
    """Fit by Newton's method: features [rows, len(names)], outcomes [rows] of 0 or 1.

    `penalty` times half the squared weights is added to the negative log likelihood; the bias is
    free. Raises `ValueError` unless both outcomes occur. Costs a few solves of a small system.
    """
    rows = np.asarray(features, np.float64)
    target = np.asarray(outcomes, np.float64)
    if rows.ndim != 2 or rows.shape != (len(target), len(names)):
        raise ValueError(f"needs [rows, {len(names)}] features, not {rows.shape}")
    if len(np.unique(target)) != 2 or not bool(np.all((target == 0) | (target == 1))):
        raise ValueError("a fit needs some outcomes of 0 and some of 1, and no other")
    means = rows.mean(axis=0)
    deviations = np.where(rows.std(axis=0) > 1e-12, rows.std(axis=0), 1.0)
    design = np.column_stack([np.ones(len(rows)), (rows - means) / deviations])
    ridge = np.diag([0.0, *[penalty] * len(names)])
    solution = np.zeros(design.shape[1])
    loss = _loss(design, target, ridge, solution)
    for _ in range(_MAX_STEPS):
        fitted = _sigmoid(design @ solution)
        gradient = design.T @ (fitted - target) + ridge @ solution
        curvature = (design.T * (fitted * (1 - fitted))) @ design + ridge
        step = np.linalg.solve(curvature + 1e-12 * np.eye(len(curvature)), gradient)
        size = 1.0
        while (after := _loss(design, target, ridge, solution - size * step)) > loss:
            size /= 2  # a full step may overshoot where the data separate
            if size < _DONE:
                break
        solution = solution - size * step
        if loss - after < _DONE * max(1.0, loss):
            break
        loss = after
    return Logistic(tuple(names), float(solution[0]), solution[1:], means, deviations)


def _loss(design: Floats, target: Floats, ridge: Floats, solution: Floats) -> float:
    linear = design @ solution
    fit = np.logaddexp(0.0, linear).sum() - target @ linear
    return float(fit + solution @ ridge @ solution / 2)


def _sigmoid(values: Floats) -> Floats:
    result: Floats = np.exp(-np.logaddexp(0.0, -values))
    return result
