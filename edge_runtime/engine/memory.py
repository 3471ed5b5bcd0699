"""How much memory a bundle will take on this box, and how much there is to give.

Both are estimates: the check keeps a box from swapping two models in where only one fits, it
does not promise that nothing else asks for memory in the same second.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.bundle.manifest import DecoderGraph, Manifest
from edge_runtime.config import Settings
from edge_runtime.engine.load import choose_variant

_FLOAT_BYTES = 4
_SLACK = 1.25  # onnxruntime's arenas and repacked weights, beside the weights themselves


def needed_bytes(manifest: Manifest, settings: Settings) -> int:
    """Memory of the variant these settings run: weights with slack, and the KV slots."""
    variant = choose_variant(manifest, settings)
    weights = int(variant.size_bytes * _SLACK)
    contract = variant.contract
    if not isinstance(contract, DecoderGraph):
        return weights
    options = settings.models.options.get(manifest.name)
    slots = (options and options.slots) or settings.models.default_slots
    context = (options and options.context_tokens) or settings.models.default_context_tokens
    per_token = 2 * contract.layers * contract.kv_heads * contract.head_dim * _FLOAT_BYTES
    return weights + per_token * slots * min(context, manifest.context)


def available_bytes(
    proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Memory this process may still take: the machine's, or its container's where that is less.

    None where nothing tells.
    """
    known = [
        int(line.split()[1]) * 1024
        for line in _read(proc / "meminfo").splitlines()
        if line.startswith("MemAvailable:")
    ]
    limit, current = _read(cgroup / "memory.max").strip(), _read(cgroup / "memory.current").strip()
    if limit.isdigit() and current.isdigit():
        # Cached file pages count as used and are given back when asked for.
        cached = sum(
            int(line.split()[1])
            for line in _read(cgroup / "memory.stat").splitlines()
            if line.startswith("inactive_file ")
        )
        known.append(max(0, int(limit) - int(current) + cached))
    return min(known, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
