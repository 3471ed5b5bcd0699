"""What decides whether a box can take a change: its facts, and what the change needs. Pure.

Rules
- A box that cannot run a change is not asked to: it is no member, and the plan says why.
- A box that never reported its hardware is left out as well; it may be asked by a later rollout.
- Version numbers are compared as numbers, part by part; what cannot be read fits nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from edge_runtime.bundle.manifest import Manifest
from fleet.rollout.progress import Base

MEMORY_FACTOR: Final = 1.3
"""Memory of a loaded variant over its files: arenas, and rows of KV. The box itself asks again."""
DISK_FACTOR: Final = 1.05
MAX_STRATA: Final = 24
OTHER: Final = "other"


@dataclass(frozen=True, slots=True)
class BoxFacts:
    """A box as planning sees it. `active` is what it serves under the change's name."""

    box: str
    reported: bool
    arch: str = ""
    cpu_model: str = ""
    accelerator: str = ""
    cpu_features: frozenset[str] = frozenset()
    memory_bytes: int = 0
    disk_free_bytes: int = 0
    onnxruntime: str = ""
    metered: bool = False
    online: bool = True
    active: str | None = None
    base: Base | None = None
    base_generation: int = 0
    taken_by: str | None = None  # another rollout of the same thing that has not ended


@dataclass(frozen=True, slots=True)
class Needs:
    """What one variant asks of a box."""

    name: str
    onnxruntime_floor: str
    cpu_features: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Artefact:
    """A change as planning sees it; without `variants` every box can take it (settings)."""

    digest: str
    bytes_full: int
    variants: tuple[Needs, ...] = ()
    deltas: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, digest: str, manifest: Manifest, deltas: Mapping[str, int]) -> Artefact:
        """That of a bundle. `deltas`: bytes by the digest of the bundle they start from."""
        return cls(
            digest=digest,
            bytes_full=sum(entry.size for entry in manifest.files),
            variants=tuple(
                Needs(one.name, one.onnxruntime_floor, one.cpu_features, one.size_bytes)
                for one in manifest.variants
            ),
            deltas=dict(deltas),
        )

    def bytes_for(self, box: BoxFacts) -> int:
        """What this box will fetch."""
        if box.active == self.digest:
            return 0
        return self.deltas.get(box.active or "", self.bytes_full)


def why_not(box: BoxFacts, artefact: Artefact) -> str | None:
    """Why this box cannot take part; None when it can. One reason, the first that holds."""
    if box.taken_by is not None:
        return f"takes part in rollout {box.taken_by}"
    if box.active == artefact.digest:
        return "has it already"
    if not artefact.variants:
        return None
    if not box.reported:
        return "never reported its hardware"
    if box.disk_free_bytes < DISK_FACTOR * artefact.bytes_full:
        return "too little free disk"
    reasons = [_why_not_variant(box, needs) for needs in artefact.variants]
    if None in reasons:
        return None
    return Counter(reasons).most_common(1)[0][0]


def _why_not_variant(box: BoxFacts, needs: Needs) -> str | None:
    floor, has = version_of(needs.onnxruntime_floor), version_of(box.onnxruntime)
    if floor is None or has is None or has < floor:
        return f"onnxruntime {box.onnxruntime or 'unknown'} is below {needs.onnxruntime_floor}"
    missing = sorted(set(needs.cpu_features) - box.cpu_features)
    if missing:
        return f"CPU lacks {', '.join(missing)}"
    if box.memory_bytes < MEMORY_FACTOR * needs.size_bytes:
        return "too little memory"
    return None


def version_of(text: str) -> tuple[int, ...] | None:
    """`1.32.0+cpu` as (1, 32, 0); None for what is no version."""
    match = re.match(r"\d+(\.\d+){0,3}", text)
    if match is None:
        return None
    parts = [int(part) for part in match[0].split(".")]
    return tuple(parts + [0] * (4 - len(parts)))


def strata_of(boxes: Iterable[BoxFacts]) -> dict[str, str]:
    """Each box's kind of hardware: the `MAX_STRATA` most common ones by name, the rest `other`."""
    kinds = {
        one.box: " ".join(part for part in (one.arch, one.cpu_model, one.accelerator) if part)
        or OTHER
        for one in boxes
    }
    common = Counter(kinds.values())
    ranked = sorted(common, key=lambda kind: (-common[kind], kind))
    named = set(ranked if len(ranked) <= MAX_STRATA else ranked[: MAX_STRATA - 1])
    return {box: kind if kind in named else OTHER for box, kind in kinds.items()}
