"""Read RAPL through Linux's powercap tree.

Rules
- Counted are the packages and the DRAM beside them. `core` and `uncore` are parts of a package,
  and `psys` holds the packages: adding them would count twice. `intel-rapl-mmio` shows the same
  packages by another way and is left out.
- Since 2020 kernels let only root read the counters (CVE-2020-8694): then the answer is
  `Unavailable` with the way out, not zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_runtime.ledger.energy.counters import Counter, Unavailable

POWERCAP = Path("/sys/class/powercap")


class RaplReader:
    """See `EnergyReader`; `root` is the powercap tree."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._root = root

    def read(self) -> Mapping[str, Counter] | Unavailable:
        """Every package and DRAM counter, by `zone/name` such as `intel-rapl:0/package-0`."""
        found: dict[str, Counter] = {}
        for zone in sorted(self._root.glob("intel-rapl:*")):
            try:
                name = (zone / "name").read_text(encoding="ascii").strip()
                if not (name.startswith("package") or name == "dram"):
                    continue
                found[f"{zone.name}/{name}"] = Counter(
                    _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
                )
            except PermissionError:
                return Unavailable(
                    f"{zone / 'energy_uj'} may be read by root only; let the daemon's group "
                    "read it with a udev rule, or accept modelled joules"
                )
            except (OSError, ValueError) as error:
                return Unavailable(f"{zone}: {error}")
        if not found:
            return Unavailable(f"{self._root} has no RAPL package; this CPU or guest shows none")
        return found


def _number(path: Path) -> int:
    value = int(path.read_text(encoding="ascii"))
    if value < 0:
        raise ValueError(f"{path.name} is negative")
    return value
