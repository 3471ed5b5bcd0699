"""What this process may use of the processor: cores, quota, instruction sets.

A container often sees every core of its host and may use a fraction of them. Threads beyond
that fraction are stopped by the kernel in mid-step, so the count here is the lowest of the
affinity mask and every CPU quota above the process (cgroup v1 and v2).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_PROC = Path("/proc")


def usable_cpus(proc: Path = _PROC) -> int:
    """Threads that can really run at once; at least 1.

    A quota of 1.5 cores counts as 2 and one of 1.4 as 1: the nearest whole number loses
    least between an idle fraction and a throttled thread.
    """
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has affinity masks
        cpus = os.cpu_count() or 1
    quota = cpu_quota(proc)
    if quota is not None:
        cpus = min(cpus, int(quota + 0.5))
    return max(cpus, 1)


def cpu_features(proc: Path = _PROC) -> frozenset[str]:
    """Instruction sets by the kernel's names (`avx512_vnni`, `avx_vnni`, `asimddp`, ...).

    Empty where the kernel does not tell, so a caller must read absence as "unknown".
    """
    for line in _read(proc / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):  # x86 and ARM
            return frozenset(value.split())
    return frozenset()


_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})


def missing_features(required: Iterable[str], have: frozenset[str] | None = None) -> list[str]:
    """Which of `required` this CPU lacks; `vnni` stands for any non-saturating 8-bit dot product.

    `have` None asks the kernel. Where it does not tell, nothing counts as missing.
    """
    features = cpu_features() if have is None else have
    if not features:
        return []
    return sorted(
        name for name in required if not (features & _VNNI if name == "vnni" else name in features)
    )


def cpu_quota(proc: Path = _PROC) -> float | None:
    """The lowest CPU quota over this process in cores, or None where there is none."""
    quotas: list[float] = []
    mounts = _cgroup_mounts(_read(proc / "self" / "mountinfo"))
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = mounts.get("cpu" if controllers else "")
        if mount is None:
            continue
        root, point = mount
        for folder in _with_parents(root, point, path):
            quota = _quota_v1(folder) if controllers else _quota_v2(folder)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _cgroup_mounts(mountinfo: str) -> dict[str, tuple[str, Path]]:
    """`cpu` (v1) and the empty name (v2) to the mount's root in the hierarchy and its folder."""
    mounts: dict[str, tuple[str, Path]] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 5 or len(tail) < 3:
            continue
        if tail[0] == "cgroup2":
            mounts[""] = (fields[3], Path(fields[4]))
        elif tail[0] == "cgroup" and "cpu" in tail[2].split(","):
            mounts["cpu"] = (fields[3], Path(fields[4]))
    return mounts


def _with_parents(root: str, point: Path, path: str) -> list[Path]:
    """The group's folder and those above it: a quota anywhere on the way down binds.

    Inside a container the mount shows only a part of the hierarchy (its `root`); a group
    outside that part cannot be read, and the mount's own top is the nearest that can.
    """
    group = PurePosixPath(path)
    relative = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
    if ".." in relative.parts:
        relative = PurePosixPath()
    return [point / relative, *(point / parent for parent in relative.parents)]


def _quota_v2(folder: Path) -> float | None:
    limit, _, period = _read(folder / "cpu.max").strip().partition(" ")
    return _cores(limit, period)


def _quota_v1(folder: Path) -> float | None:
    limit = _read(folder / "cpu.cfs_quota_us").strip()
    period = _read(folder / "cpu.cfs_period_us").strip()
    return _cores(limit, period)


def _cores(limit: str, period: str) -> float | None:
    """Cores of a quota; None for `max` (v2), -1 (v1) and whatever is not a number."""
    if not limit.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(limit) / int(period)


def _read(path: Path) -> str:
    """The file's text, empty where it cannot be read: every fact here is optional."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
