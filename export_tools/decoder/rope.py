"""Rotary position embeddings: the cos and sin tables all layers share.

Scalings: default, linear, llama3, yarn (https://arxiv.org/abs/2309.00071). Angles are computed
in float32, as the models were trained; the tables are exact for those angles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_runtime.errors import BundleError
from export_tools.quant.rows import FloatArray

SCALINGS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Base wavelength, scaling kind and its parameters; `dim` is the head dimension."""

    dim: int
    theta: float
    kind: str
    positions: int
    parameters: Mapping[str, Any] = field(default_factory=dict)


def parse_rope(config: Mapping[str, Any], dim: int, positions: int) -> RopeSpec:
    """Read `rope_theta` and `rope_scaling` (or the newer `rope_parameters`)."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = str(parameters.get("rope_type") or parameters.get("type") or "default")
    if kind not in SCALINGS:
        raise BundleError(
            "config.json",
            f"rope scaling {kind!r} cannot be exported; supported: {', '.join(SCALINGS)}",
        )
    theta = float(parameters.get("rope_theta") or config.get("rope_theta") or 10000.0)
    spec = RopeSpec(dim, theta, kind, positions, dict(parameters))
    required = {"linear": ("factor",), "yarn": ("factor",), "llama3": _LLAMA3}.get(kind, ())
    missing = [name for name in required if name not in parameters]
    if missing:
        raise BundleError("config.json", f"rope scaling {kind!r} lacks {', '.join(missing)}")
    return spec


_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def rope_tables(spec: RopeSpec, length: int) -> tuple[FloatArray, FloatArray]:
    """Cos and sin of every position, float32 [length, dim/2] each."""
    frequencies, gain = _frequencies(spec)
    positions = np.arange(length, dtype=np.float32)
    angles = (positions[:, None] * frequencies[None, :]).astype(np.float64)
    cos = (np.cos(angles) * gain).astype(np.float32)
    return cos, (np.sin(angles) * gain).astype(np.float32)


def _frequencies(spec: RopeSpec) -> tuple[FloatArray, float]:
    """Angle per position of each pair, float32 [dim/2], and the gain of cos and sin."""
    exponents = np.arange(0, spec.dim, 2, dtype=np.float32) / np.float32(spec.dim)
    base = (1.0 / np.power(np.float32(spec.theta), exponents)).astype(np.float32)
    if spec.kind == "linear":
        return (base / np.float32(spec.parameters["factor"])).astype(np.float32), 1.0
    if spec.kind == "llama3":
        return _llama3(base, spec), 1.0
    if spec.kind == "yarn":
        return _yarn(base, spec)
    return base, 1.0


def _llama3(base: FloatArray, spec: RopeSpec) -> FloatArray:
    """Long waves are slowed by `factor`, short ones kept, those between blended."""
    factor, low, high, original = (float(spec.parameters[name]) for name in _LLAMA3)
    turns = original * base / (2 * math.pi)  # rotations within the original context
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    mixed: FloatArray = ((1 - blend) * base / factor + blend * base).astype(np.float32)
    return mixed


def _yarn(base: FloatArray, spec: RopeSpec) -> tuple[FloatArray, float]:
    """Interpolate by pair index between the dimensions that make `beta` rotations."""
    given = spec.parameters
    factor = float(given["factor"])
    original = float(given.get("original_max_position_embeddings") or spec.positions)

    def pair_of(rotations: float) -> float:
        ratio = math.log(original / (rotations * 2 * math.pi)) / math.log(spec.theta)
        return spec.dim * ratio / 2

    low = pair_of(float(given.get("beta_fast") or 32))
    high = pair_of(float(given.get("beta_slow") or 1))
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.dim - 1)
    width = max(high - low, 0.001)
    slowed = np.clip((np.arange(spec.dim // 2, dtype=np.float32) - low) / width, 0.0, 1.0)
    mixed = base / factor * slowed + base * (1 - slowed)
    return mixed.astype(np.float32), _yarn_gain(given, factor)


def _yarn_gain(given: Mapping[str, Any], factor: float) -> float:
    """Gain of cos and sin that keeps attention's temperature at long context."""
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        return magnitude(float(given["mscale"])) / magnitude(float(given["mscale_all_dim"]))
    return magnitude(1.0)
