"""How many threads a process may use, from files as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.engine.cpu import cpu_features, cpu_quota, usable_cpus


class Kernel:
    """A small /proc and the cgroup folders it speaks of."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.groups = root / "cgroup"
        (self.proc / "self").mkdir(parents=True)

    def v2(self, group: str, *, root: str = "/") -> None:
        self._write(f"30 20 0:26 {root} {self.groups} rw - cgroup2 cgroup2 rw\n", f"0::{group}\n")

    def v1(self, group: str, *, root: str = "/") -> None:
        self._write(
            f"31 23 0:28 / /x rw - tmpfs tmpfs rw\n"
            f"32 31 0:29 {root} {self.groups} rw - cgroup cgroup rw,cpu,cpuacct\n",
            f"4:memory:/other\n3:cpu,cpuacct:{group}\n",
        )

    def set(self, folder: str, **files: str) -> None:
        target = self.groups / folder
        target.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (target / name.replace("__", ".")).write_text(text + "\n")

    def _write(self, mountinfo: str, cgroup: str) -> None:
        (self.proc / "self" / "mountinfo").write_text(mountinfo)
        (self.proc / "self" / "cgroup").write_text(cgroup)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def test_without_a_quota_the_affinity_decides(kernel: Kernel) -> None:
    kernel.v2("/box")
    kernel.set("box", cpu__max="max 100000")
    assert cpu_quota(kernel.proc) is None
    assert usable_cpus(kernel.proc) == 16


def test_a_v2_quota_binds(kernel: Kernel) -> None:
    kernel.v2("/box")
    kernel.set("box", cpu__max="250000 100000")
    assert cpu_quota(kernel.proc) == 2.5


def test_a_quota_of_a_parent_binds_too(kernel: Kernel) -> None:
    kernel.v2("/slice/box")
    kernel.set("slice", cpu__max="300000 100000")
    kernel.set("slice/box", cpu__max="max 100000")
    assert usable_cpus(kernel.proc) == 3


def test_a_v1_quota_binds(kernel: Kernel) -> None:
    kernel.v1("/docker/abc")
    kernel.set("docker/abc", cpu__cfs_quota_us="400000", cpu__cfs_period_us="100000")
    assert usable_cpus(kernel.proc) == 4


def test_v1_without_a_limit_says_minus_one(kernel: Kernel) -> None:
    kernel.v1("/docker/abc")
    kernel.set("docker/abc", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert cpu_quota(kernel.proc) is None


def test_a_container_sees_its_own_group_as_the_mount(kernel: Kernel) -> None:
    kernel.v1("/docker/abc", root="/docker/abc")
    kernel.set(".", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    assert usable_cpus(kernel.proc) == 2


def test_a_group_outside_the_mount_falls_back_to_its_top(kernel: Kernel) -> None:
    kernel.v2("/../elsewhere")
    kernel.set(".", cpu__max="100000 100000")
    assert usable_cpus(kernel.proc) == 1


@pytest.mark.parametrize(("limit", "threads"), [("40000", 1), ("140000", 1), ("150000", 2)])
def test_fractions_round_to_the_nearest_and_never_to_none(
    kernel: Kernel, limit: str, threads: int
) -> None:
    kernel.v2("/box")
    kernel.set("box", cpu__max=f"{limit} 100000")
    assert usable_cpus(kernel.proc) == threads


def test_a_machine_without_these_files_uses_its_affinity(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == 16
    assert cpu_features(tmp_path) == frozenset()


@pytest.mark.parametrize("key", ["flags\t\t", "Features\t"])
def test_features_are_those_of_the_kernel(kernel: Kernel, key: str) -> None:
    (kernel.proc / "cpuinfo").write_text(f"processor\t: 0\n{key}: fpu avx2 avx512_vnni\n\n")
    assert cpu_features(kernel.proc) == {"fpu", "avx2", "avx512_vnni"}
