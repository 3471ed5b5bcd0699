"""What a variant must reach, and the one place that decides whether it did.

A gate fails closed: a figure that is missing its limit, or is not a number, ends the export with
an error that names the file, the figure and the limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edge_runtime.errors import BundleError

Dtype = Literal["int8", "int4", "fp32"]


@dataclass(frozen=True, slots=True)
class EncoderLimits:
    """Limits of an embedding model or classifier.

    `cosine_p1`: 1st percentile over sentences of the cosine to the float32 graph (of logits for
    classifiers). `agreement`: share of sentences with the same label as the float32 graph;
    classifiers only. `company_cosine`: the same sentence alone and beside others, lowest.
    `source_cosine`: float32 graph against the source implementation, lowest.
    """

    cosine_p1: float = 0.99
    agreement: float = 0.97
    company_cosine: float = 0.99999
    source_cosine: float = 0.99999


@dataclass(frozen=True, slots=True)
class DecoderLimits:
    """Limits of a generating model, over the next-token distributions of real sentences.

    `mean_kl`: mean divergence from the float32 graph in nats. `top1`: share of positions with
    the same most probable token, where the float32 graph leads by 0.1 or more.
    `company_error`: largest difference of a logit alone and beside others. `source_error`:
    largest difference of a logit, float32 graph to the source implementation.
    """

    mean_kl: float = 0.02
    top1: float = 0.97
    company_error: float = 1e-4
    source_error: float = 1e-3


ENCODER_LIMITS: dict[Dtype, EncoderLimits] = {
    "int8": EncoderLimits(),
    "int4": EncoderLimits(cosine_p1=0.90, agreement=0.90),
    "fp32": EncoderLimits(cosine_p1=0.999999, agreement=1.0),
}
DECODER_LIMITS: dict[Dtype, DecoderLimits] = {
    "int8": DecoderLimits(),
    "int4": DecoderLimits(mean_kl=0.1, top1=0.92),
    "fp32": DecoderLimits(mean_kl=1e-6, top1=1.0),
}
_AT_MOST = frozenset({"mean_kl", "company_error", "source_error"})


def enforce(
    file: str, limits: EncoderLimits | DecoderLimits, figures: Mapping[str, float | None]
) -> dict[str, Any]:
    """Hold the figures against the limits of the same name; returns both for the manifest.

    A figure of None was not measured, for a reason the gate states; its limit is left out.
    Raises `BundleError` for the first that misses.
    """
    wanted = dataclasses.asdict(limits)
    held: dict[str, float] = {}
    for name, value in figures.items():
        if value is None or name not in wanted:
            continue
        limit = held[name] = wanted[name]
        good = value <= limit if name in _AT_MOST else value >= limit
        if not good:  # also when it is not a number
            side = "above" if name in _AT_MOST else "below"
            raise BundleError(
                file,
                f"{name} = {value:.6g} is {side} its limit {limit:.6g}; choose another variant, "
                "or change the limit in the recipe if the loss is acceptable",
            )
    return {"limits": held, "figures": {k: v for k, v in figures.items() if v is not None}}
