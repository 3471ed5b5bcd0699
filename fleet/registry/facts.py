"""What an expression may ask of a box, and how long ago is too long. Pure.

Rules
- `BOX_NAMES` are all the names that groups, targets and filters may use.
- A box that has not reported yet has only its names and its operator's labels; what an
  expression asks beyond that is unknown, and the box is not selected.
- Of a label that both the operator and the box gave, the operator's counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from edge_runtime.agent.protocol import Hardware, Have, Health, Versions

BOX_NAMES: Final[Mapping[str, type]] = MappingProxyType(
    {
        "principal": str,
        "tenant": str,
        "box": str,
        "labels": dict,
        "groups": list,
        "health": str,
        "arch": str,
        "cpu_model": str,
        "cpu_features": list,
        "cores": int,
        "memory_bytes": int,
        "disk_free_bytes": int,
        "accelerator": str,
        "metered": bool,
        "daemon": str,
        "onnxruntime": str,
        "os": str,
        "bundles": dict,  # name to active bundle digest
        "versions": dict,  # name to active version
        "states": dict,  # <kind>/<name> to state
    }
)

ENROL_NAMES: Final[Mapping[str, type]] = MappingProxyType(
    {
        name: BOX_NAMES[name]
        for name in (
            "principal", "tenant", "box", "labels", "arch", "cpu_model", "cpu_features", "cores",
            "memory_bytes", "accelerator", "daemon", "onnxruntime", "os",
        )
    }
)  # fmt: skip
"""What is known of a box that asks to be let in."""

GROUP_NAMES: Final[Mapping[str, type]] = MappingProxyType(
    {name: kind for name, kind in BOX_NAMES.items() if name != "groups"}
)
"""A group may not be made of groups: nothing has to be ordered, nothing can go in circles."""


@dataclass(frozen=True, slots=True)
class Limits:
    """After how many seconds without a word a box is silent, and then unreachable."""

    silent_after_s: float
    unreachable_after_s: float


@dataclass(frozen=True, slots=True)
class Known:
    """One box as the registry knows it."""

    principal: str
    tenant: str
    box: str
    labels: Mapping[str, str]
    health: Health
    have: Have | None


def health_of(
    *, online: bool, last_contact_s: float | None, now_s: float, limits: Limits
) -> Health:
    """What the control host makes of its silence. Ends of connections can be missed, hence both."""
    silent_s = now_s - (last_contact_s if last_contact_s is not None else 0.0)
    if online and silent_s <= limits.silent_after_s:
        return Health.ONLINE
    return Health.SILENT if silent_s <= limits.unreachable_after_s else Health.UNREACHABLE


def values_of(known: Known, groups: Iterable[str] = ()) -> dict[str, Any]:
    """The values of `BOX_NAMES` for one box."""
    values: dict[str, Any] = {
        "principal": known.principal,
        "tenant": known.tenant,
        "box": known.box,
        "labels": dict(known.labels),
        "groups": list(groups),
        "health": known.health.value,
    }
    if known.have is not None:
        values.update(_reported(known.have))
    return values


def facts_of(hardware: Hardware, versions: Versions) -> dict[str, Any]:
    """The values that follow from what a box is."""
    return {
        "arch": hardware.arch,
        "cpu_model": hardware.cpu_model,
        "cpu_features": list(hardware.cpu_features),
        "cores": hardware.cores,
        "memory_bytes": hardware.memory_bytes,
        "accelerator": hardware.accelerator,
        "daemon": versions.daemon,
        "onnxruntime": versions.onnxruntime,
        "os": versions.os,
    }


def _reported(have: Have) -> dict[str, Any]:
    bundles = [item for item in have.items if item.kind == "bundle" and item.active is not None]
    return {
        **facts_of(have.hardware, have.versions),
        "disk_free_bytes": have.disk_free_bytes,
        "metered": have.metered,
        "bundles": {item.name: item.active for item in bundles},
        "versions": {item.name: item.version for item in bundles if item.version is not None},
        "states": {f"{item.kind}/{item.name}": item.state.value for item in have.items},
    }
