"""The named variants a bundle can hold and the plan behind each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_runtime.errors import UsageError
from export_tools.quant.float32 import Float32
from export_tools.quant.formats import QuantPlan
from export_tools.quant.int8 import Int8Rows
from export_tools.quant.nbits import NBits


@dataclass(frozen=True)
class VariantSpec:
    """A variant's plan, the dtype its manifest states, and what the CPU must have.

    `cpu_features`: `vnni` stands for any integer dot product that does not saturate (AVX-VNNI,
    AVX512-VNNI, or the dot-product extension of ARM).
    """

    name: str
    dtype: Literal["int8", "int4", "fp32"]
    plan: QuantPlan
    cpu_features: tuple[str, ...] = ()


_EIGHT = NBits(bits=8)

VARIANTS: dict[str, VariantSpec] = {
    spec.name: spec
    for spec in (
        VariantSpec("fp32", "fp32", QuantPlan(Float32())),
        VariantSpec("int8", "int8", QuantPlan(Int8Rows()), ("vnni",)),
        VariantSpec("int8-7bit", "int8", QuantPlan(Int8Rows(reduce_range=True))),
        VariantSpec("int8-blocks", "int8", QuantPlan(_EIGHT)),
        VariantSpec(
            "int4", "int4", QuantPlan(NBits(bits=4), {"head": _EIGHT, "embedding": _EIGHT})
        ),
    )
}


def variant_spec(name: str) -> VariantSpec:
    """The variant of that name. Raises `UsageError` naming the known ones."""
    try:
        return VARIANTS[name]
    except KeyError:
        known = ", ".join(VARIANTS)
        raise UsageError(
            f"unknown variant {name!r}; choose one of: {known}", param="variant"
        ) from None
