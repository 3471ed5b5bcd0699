"""Read NVIDIA devices' energy counters through NVML (package `nvidia-ml-py`, optional).

The counter is millijoules since the driver was loaded, on Volta and newer. It moves only every
20 to 100 ms, so a short step may see 0: read around many steps and share the sum out.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

from edge_runtime.ledger.energy.counters import Counter, Unavailable


class Nvml(Protocol):
    """What is used of the module `pynvml`."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802  # NVML's own names
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: Any) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int: ...  # noqa: N802


def import_nvml() -> Nvml | Unavailable:
    """The real module, or why it is not there."""
    try:
        return cast("Nvml", importlib.import_module("pynvml"))
    except ImportError:
        return Unavailable("NVML needs the package nvidia-ml-py; pip install nvidia-ml-py")


class NvmlReader:
    """See `EnergyReader`; `nvml` is the module or its stand-in. Close it after use."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._open = False

    def read(self) -> Mapping[str, Counter] | Unavailable:
        """One counter a device, by UUID: indices may change when a device falls off."""
        try:
            if not self._open:
                self._nvml.nvmlInit()
                self._open = True
            found = {}
            for index in range(self._nvml.nvmlDeviceGetCount()):
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                name = self._nvml.nvmlDeviceGetUUID(handle)
                key = name.decode() if isinstance(name, bytes) else name
                millijoules = self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
                found[key] = Counter(millijoules * 1000)
        except self._nvml.NVMLError as error:
            return Unavailable(f"NVML: {error}; older devices and some guests have no counter")
        if not found:
            return Unavailable("NVML sees no device")
        return found

    def close(self) -> None:
        """Let NVML go. May be called twice."""
        if self._open:
            self._open = False
            self._nvml.nvmlShutdown()
