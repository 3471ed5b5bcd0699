"""Facts about this box: what it could run, and what runs on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from edge_runtime import __version__
from edge_runtime.agent.protocol import Hardware, Versions
from edge_runtime.engine.cpu import cpu_features, missing_features, usable_cpus

_WORTH_TELLING = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "fma", "f16c",
    "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def hardware(disk: Path) -> Hardware:
    """What this machine is; `disk` is any existing folder of the store's file system."""
    features = cpu_features()
    told = [name for name in _WORTH_TELLING if name in features]
    if features and not missing_features(["vnni"]):
        told.append("vnni")  # bundles ask for it by this name
    return Hardware(
        arch=platform.machine(),
        cpu_model=_cpu_model()[:96],
        cores=usable_cpus(),
        cpu_features=tuple(told),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk_total_bytes=shutil.disk_usage(disk).total,
    )


def versions() -> Versions:
    """What software runs here."""
    return Versions(
        daemon=__version__,
        onnxruntime=_runtime_version(),
        python=platform.python_version(),
        os=f"{platform.system()} {platform.release()}"[:96],
    )


def _runtime_version() -> str:
    for name in _RUNTIMES:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return "".join(char for char in value.strip() if char.isascii())
    except OSError:
        pass
    return platform.processor()
