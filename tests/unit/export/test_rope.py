"""Rope tables: known angles, and what each scaling does to fast and slow pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import BundleError
from export_tools.decoder.rope import RopeSpec, parse_rope, rope_tables


def angles(scaling: dict[str, Any] | None, dim: int = 64, theta: float = 10000.0) -> np.ndarray:
    """Angle of each pair at position 1."""
    config = {"rope_theta": theta, "rope_scaling": scaling}
    cos, sin = rope_tables(parse_rope(config, dim, 4096), 2)
    return np.arctan2(sin[1], cos[1])


def test_default_angles_are_powers_of_theta() -> None:
    expected = [10000.0 ** (-2 * pair / 64) for pair in range(32)]
    np.testing.assert_allclose(angles(None), expected, rtol=1e-5)


def test_position_zero_turns_nothing() -> None:
    cos, sin = rope_tables(RopeSpec(8, 10000.0, "default", 32), 3)
    np.testing.assert_array_equal(cos[0], 1)
    np.testing.assert_array_equal(sin[0], 0)
    assert cos.shape == sin.shape == (3, 4)


def test_linear_slows_every_pair() -> None:
    scaled = angles({"type": "linear", "factor": 4.0})
    np.testing.assert_allclose(scaled, angles(None) / 4, rtol=1e-5)


def test_llama3_keeps_fast_pairs_and_slows_slow_ones() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    }
    ratio = angles(scaling) / angles(None)
    wavelengths = 2 * math.pi / angles(None)
    np.testing.assert_allclose(ratio[wavelengths < 1024 / 4], 1, rtol=1e-5)
    np.testing.assert_allclose(ratio[wavelengths > 1024], 1 / 8, rtol=1e-4)
    between = ratio[(wavelengths > 1024 / 4) & (wavelengths < 1024)]
    assert ((between > 1 / 8) & (between < 1)).all()
    assert len(between) > 0


def test_yarn_keeps_fast_pairs_slows_slow_ones_and_sharpens_attention() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    ratio = angles(scaling) / angles(None)
    np.testing.assert_allclose(ratio[[0, -1]], [1, 1 / 4], rtol=1e-4)
    spec = parse_rope({"rope_scaling": scaling}, 64, 4096)
    cos, _ = rope_tables(spec, 1)
    np.testing.assert_allclose(cos[0], 0.1 * math.log(4.0) + 1, rtol=1e-6)


def test_yarn_gain_may_be_given() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}
    cos, _ = rope_tables(parse_rope({"rope_scaling": scaling}, 64, 4096), 1)
    np.testing.assert_allclose(cos[0], 1.5)
    scaling = {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    cos, _ = rope_tables(parse_rope({"rope_scaling": scaling}, 64, 4096), 1)
    np.testing.assert_allclose(cos[0], 1.0)


def test_newer_configs_keep_theta_in_rope_parameters() -> None:
    config = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    assert parse_rope(config, 64, 4096).theta == 500000.0


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "su"])
def test_other_scalings_are_refused_by_name(kind: str) -> None:
    with pytest.raises(BundleError, match=f"'{kind}' cannot be exported"):
        parse_rope({"rope_scaling": {"type": kind, "factor": 2.0}}, 64, 4096)


def test_missing_parameters_are_named() -> None:
    with pytest.raises(BundleError, match="lacks factor"):
        parse_rope({"rope_scaling": {"rope_type": "yarn"}}, 64, 4096)
