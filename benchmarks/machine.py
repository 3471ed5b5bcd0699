"""What a figure needs beside it: the machine it was taken on and who else was using it.

Reads Linux's /proc only; no dependency.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FLAGS_OF_INTEREST = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8")


def describe_machine() -> dict[str, object]:
    """CPU model, usable cores, instruction sets that decide INT8 speed, memory, system, date."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    split = (line.partition(":") for line in cpuinfo.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in split}
    flags = set(fields.get("flags", "").split())
    total_kib = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    return {
        "cpu": f"{fields.get('model name', platform.processor())} "
        f"(family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})",
        "cores": len(os.sched_getaffinity(0)),
        "cpu_flags": [flag for flag in _FLAGS_OF_INTEREST if flag in flags],
        "memory_gib": round(total_kib / 2**20, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class CpuReading:
    """CPU seconds used since boot by everybody, by a group of processes, and stolen by the host."""

    at_s: float
    busy_s: float
    group_s: float
    stolen_s: float

    def foreign_share(self, later: CpuReading, cores: int) -> float:
        """Share (0..1) of ``cores`` that neither the group nor idleness had until ``later``."""
        wall_s = later.at_s - self.at_s
        if wall_s <= 0:
            return 0.0
        busy_s = later.busy_s - self.busy_s + later.stolen_s - self.stolen_s
        return max(0.0, (busy_s - (later.group_s - self.group_s)) / (wall_s * cores))


def read_cpu(pids: list[int]) -> CpuReading:
    """Read the counters; ``pids`` are the processes of this benchmark (threads are included)."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(x) for x in first[:8])
    group = 0
    for pid in pids:
        try:
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        group += int(after_name[11]) + int(after_name[12])
    return CpuReading(
        at_s=time.perf_counter(),
        busy_s=(user + nice + system + irq + softirq) / _TICKS_PER_S,
        group_s=group / _TICKS_PER_S,
        stolen_s=steal / _TICKS_PER_S,
    )


def descendants(pids: list[int]) -> list[int]:
    """``pids`` and every process below them."""
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting += [int(child) for child in task.read_text().split()]
            except FileNotFoundError:
                continue  # the thread ended meanwhile
    return found
