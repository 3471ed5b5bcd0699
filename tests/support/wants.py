"""Wanted things for tests of agent and fleet."""

from __future__ import annotations

from typing import Any

from edge_runtime.agent.protocol import Hardware, ItemKind, Versions, Want, WantItem

PRINCIPAL = "acme~box-1"
OLD, NEW, NEWER = "a" * 64, "b" * 64, "c" * 64
HARDWARE = Hardware(arch="x86_64", cores=2, memory_bytes=1 << 33)
VERSIONS = Versions(daemon="0.1.0", onnxruntime="1.32.0")


def want_item(generation: int = 1, digest: str = NEW, **fields: Any) -> WantItem:
    """A bundle item of 1,000 bytes that nothing holds back."""
    values: dict[str, Any] = {
        "kind": ItemKind.BUNDLE,
        "name": "assistant",
        "rollout": "r-1",
        "release": 3,
        "release_floor": 1,
        "bytes_full": 1000,
    }
    return WantItem(generation=generation, digest=digest, **(values | fields))


def want(*items: WantItem, generation: int | None = None, **fields: Any) -> Want:
    """A document of these items for `PRINCIPAL`."""
    highest = max((item.generation for item in items), default=1)
    values: dict[str, Any] = {"principal": PRINCIPAL, "issued_s": 1_800_000_000}
    return Want(generation=generation or highest, items=items, **(values | fields))
