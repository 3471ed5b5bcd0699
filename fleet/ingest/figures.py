"""The figures that guards, alerts and people speak of, from sums of telemetry. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from fleet.ingest.sums import Sums
from fleet.rollout.signals import MEASURED, with_derived


def figures_of(sums: Sums) -> dict[str, float]:
    """The names of `MEASURED` that these sums know, and no others.

    A metric of which nothing was heard has no figure; one that was heard of without the label
    that counts is 0.
    """
    found: dict[str, float] = {}
    for name, series in MEASURED.items():
        value: float | None
        if series.quantile is None:
            value = sums.total(series.metric, series.label, series.value)
        else:
            sketch = sums.distribution(series.metric)
            value = None if sketch is None else sketch.quantile(series.quantile)
        if value is not None:
            found[name] = value
    return found


def all_figures(sums: Sums) -> Mapping[str, float]:
    """Measured figures, and the rates that can be made of them."""
    return with_derived(figures_of(sums))
