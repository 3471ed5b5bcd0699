"""Reports of boxes as the fleet's tests need them."""

from __future__ import annotations

from typing import Any

from edge_runtime.agent.protocol import (
    BoxState,
    Hardware,
    Have,
    ItemKind,
    ItemReport,
    Versions,
)
from fleet.registry.facts import Limits

GIB = 1 << 30
NOW_S = 1_800_000_000.0
LIMITS = Limits(silent_after_s=900.0, unreachable_after_s=86_400.0)
DIGEST = "ab" * 32
HARDWARE = Hardware(
    arch="x86_64", cores=4, cpu_features=("avx2", "fma"), memory_bytes=8 * GIB, disk_total_bytes=0
)
VERSIONS = Versions(daemon="0.1.0", onnxruntime="1.32.0", os="Debian 12")


def item(state: BoxState = BoxState.CONFIRMED, **changes: Any) -> ItemReport:
    """One bundle that serves."""
    values: dict[str, Any] = {
        "kind": ItemKind.BUNDLE,
        "name": "assistant",
        "generation": 1,
        "state": state,
        "active": DIGEST,
        "version": "1.0.0",
    }
    return ItemReport(**{**values, **changes})


def have(principal: str = "acme~box-1", **changes: Any) -> Have:
    """A report of a healthy box."""
    values: dict[str, Any] = {
        "principal": principal,
        "boot": "boot-a",
        "seq": 1,
        "uptime_ms": 1000,
        "clock_s": int(NOW_S),
        "connection": 1,
        "hardware": HARDWARE,
        "versions": VERSIONS,
        "items": (item(),),
        "disk_free_bytes": 4 * GIB,
    }
    return Have(**{**values, **changes})
