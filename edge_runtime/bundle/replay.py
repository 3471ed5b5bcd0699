"""What of a recorded history of file calls may survive a crash. Pure; see `crash`'s rules."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

ROOT = 0


@dataclass(frozen=True, slots=True)
class Names:
    """Edits of directory entries that happen together; `owner` is the directory to fsync."""

    owner: int
    edits: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Bytes:
    """A change of the file `owner`: cut to `keep` bytes (None: keep all), then append."""

    owner: int
    keep: int | None
    data: bytes


@dataclass(frozen=True, slots=True)
class Sync:
    """An fsync of the file or directory `owner`."""

    owner: int


Effect = Names | Bytes | Sync


@dataclass
class Disk:
    """Directories and files by inode number; inode 0 is `/`."""

    directories: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    contents: dict[int, bytes] = field(default_factory=dict)
    next_inode: int = 1

    def apply(self, effect: Effect) -> None:
        if isinstance(effect, Bytes):
            old = self.contents[effect.owner]
            self.contents[effect.owner] = old[: effect.keep] + effect.data
        elif isinstance(effect, Names):
            for directory, name, inode in effect.edits:
                if inode is None:
                    self.directories[directory].pop(name, None)
                else:
                    self.directories[directory][name] = inode

    def copy(self) -> Disk:
        directories = {inode: dict(names) for inode, names in self.directories.items()}
        return Disk(directories, dict(self.contents), self.next_inode)

    def tree(self, inode: int = ROOT) -> object:
        """Everything reachable, as nested dicts of bytes: equal trees look equal to a reader."""
        if inode in self.contents:
            return self.contents[inode]
        return {name: self.tree(child) for name, child in self.directories[inode].items()}


def outcomes(
    history: Sequence[Effect], seeds: Sequence[int]
) -> Iterator[tuple[str, Mapping[int, Effect]]]:
    """Named choices of what survives of what is not durable yet, by place in `history`.

    The names: "nothing", "everything", "only <inode>" and "seed <n>".
    """
    pending = _pending(history)
    yield "nothing", {}
    yield "everything", {index: effect for group in pending.values() for index, effect in group}
    for owner, group in pending.items():
        yield f"only {owner}", dict(group)
    for seed in seeds:
        yield f"seed {seed}", _draw(pending, random.Random(f"{len(history)}/{seed}"))


def replay(disk: Disk, history: Sequence[Effect], survivors: Mapping[int, Effect]) -> None:
    """Apply to `disk` what is durable of `history`, and `survivors` of the rest."""
    lost = {index for group in _pending(history).values() for index, _ in group}
    for index, effect in enumerate(history):
        if index in survivors:
            disk.apply(survivors[index])
        elif index not in lost:
            disk.apply(effect)


def _pending(history: Sequence[Effect]) -> dict[int, list[tuple[int, Effect]]]:
    """What is not durable, in order, by the file or directory whose fsync it waits for."""
    pending: dict[int, list[tuple[int, Effect]]] = {}
    for index, effect in enumerate(history):
        if isinstance(effect, Sync):
            pending.pop(effect.owner, None)
        else:
            pending.setdefault(effect.owner, []).append((index, effect))
    return pending


def _draw(pending: Mapping[int, list[tuple[int, Effect]]], rng: random.Random) -> dict[int, Effect]:
    """A prefix of what waits for each fsync, sometimes with the next write torn."""
    survivors: dict[int, Effect] = {}
    for group in pending.values():
        length = rng.randint(0, len(group))
        survivors.update(group[:length])
        if length < len(group):
            index, effect = group[length]
            if isinstance(effect, Bytes) and effect.keep is None:
                part = effect.data[: rng.randint(0, len(effect.data))]
                zeros = b"\0" * (len(effect.data) - len(part)) if rng.random() < 0.5 else b""
                survivors[index] = Bytes(effect.owner, None, part + zeros)
    return survivors
