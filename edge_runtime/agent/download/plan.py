"""What to fetch next: blocks of a blob, files of a bundle. Pure.

Rules
- Blocks are committed in order, so what is done of a blob is one number. Blocks ahead of it may be
  on their way, at most `window` of them; that bounds memory as well as connections.
- A file that is here already is not fetched. One with a delta is made from it, where that is
  smaller. The rest is fetched whole, if the policy allows that; else nothing is fetched at all.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edge_runtime.agent.contract import NoDeltaError
from edge_runtime.bundle.manifest import BLOCK_BYTES, FileEntry, Manifest
from edge_runtime.bundle.targets import DeltaFile


@dataclass(frozen=True, slots=True)
class BlobSpec:
    """A blob as it was signed: sha256 and size of the whole, sha256 of each block.

    Every block but the last has `block_bytes`.
    """

    sha256: str
    size: int
    blocks: tuple[str, ...]
    block_bytes: int = BLOCK_BYTES

    @classmethod
    def of_entry(cls, entry: FileEntry) -> BlobSpec:
        """The blob of a listed file."""
        return cls(entry.sha256, entry.size, entry.blocks)

    @classmethod
    def of_document(cls, sha256: str, size: int) -> BlobSpec:
        """A small blob that is one block."""
        return cls(sha256, size, (sha256,) if size else (), max(size, 1))

    def span(self, index: int) -> tuple[int, int]:
        """First byte and length of a block."""
        start = index * self.block_bytes
        return start, min(self.block_bytes, self.size - start)

    def bytes_of(self, blocks: int) -> int:
        """How many bytes the first `blocks` blocks have."""
        return min(self.size, blocks * self.block_bytes)


def next_blocks(total: int, committed: int, busy: Collection[int], window: int) -> tuple[int, ...]:
    """Blocks to ask for now: those of the window that nobody fetches yet, nearest first."""
    end = min(total, committed + window)
    return tuple(index for index in range(committed, end) if index not in busy)


class Way(enum.StrEnum):
    """How a file of a bundle comes to be here."""

    HERE = "here"  # the same bytes are on this box
    DELTA = "delta"  # made out of a file of the base
    FULL = "full"


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file and its way; `delta` is set for `DELTA`. `cost_bytes` are bytes to transfer."""

    entry: FileEntry
    way: Way
    cost_bytes: int
    delta: DeltaFile | None = None


def plan_files(
    manifest: Manifest,
    here: Collection[str],
    deltas: Mapping[str, DeltaFile],
    *,
    full_allowed: bool,
) -> tuple[FilePlan, ...]:
    """The way of every file of `manifest`, one for each different content.

    `here` holds the sha256 of whole files on this box, `deltas` by path those whose base is on this
    box. Raises `NoDeltaError` when a file would have to be fetched whole and that is not allowed.
    """
    plans: dict[str, FilePlan] = {}
    for entry in manifest.files:
        delta = deltas.get(entry.path)
        if entry.sha256 in plans:
            continue
        if entry.sha256 in here:
            plan = FilePlan(entry, Way.HERE, 0)
        elif delta is not None and (not full_allowed or delta.delta.size < entry.size):
            plan = FilePlan(entry, Way.DELTA, delta.delta.size, delta)
        elif full_allowed:
            plan = FilePlan(entry, Way.FULL, entry.size)
        else:
            raise NoDeltaError(
                f"{entry.path}: no delta leads to it from what this box has, and a full download "
                "is not allowed: publish a delta, or allow it"
            )
        plans[entry.sha256] = plan
    return tuple(plans.values())
