"""Joules: fake powercap trees, a fake NVML, and how energy is shared out."""
# ruff: noqa: N802  # NVML's own names

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ledger.energy.account import (
    Energy,
    Split,
    modelled,
    share,
    split_idle,
    worst_source,
)
from edge_runtime.ledger.energy.counters import (
    Counter,
    Delta,
    Unavailable,
    difference,
    longest_gap_s,
)
from edge_runtime.ledger.energy.nvml import NvmlReader, import_nvml
from edge_runtime.ledger.energy.rapl import RaplReader
from edge_runtime.ledger.rows import JouleSource

RANGE = 262_143_328_850


def zone(root: Path, place: str, name: str, energy: object, span: object = RANGE) -> Path:
    folder = root / place
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return folder


def two_sockets(root: Path) -> None:
    (root / "intel-rapl").mkdir(parents=True)
    zone(root, "intel-rapl:0", "package-0", 1000)
    zone(root, "intel-rapl:0:0", "core", 400)
    zone(root, "intel-rapl:0:1", "uncore", 300)
    zone(root, "intel-rapl:0:2", "dram", 50, 65_532_610_987)
    zone(root, "intel-rapl:1", "package-1", 2000)
    zone(root, "intel-rapl:2", "psys", 9000)
    zone(root, "intel-rapl-mmio:0", "package-0", 1000)


def test_packages_and_their_memory_are_counted_once(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    assert RaplReader(tmp_path).read() == {
        "intel-rapl:0/package-0": Counter(1000, RANGE),
        "intel-rapl:0:2/dram": Counter(50, 65_532_610_987),
        "intel-rapl:1/package-1": Counter(2000, RANGE),
    }


def test_two_readings_make_joules_across_a_wrap(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text(str(RANGE - 100))
    reader = RaplReader(tmp_path)
    before = reader.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1700")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("23")
    after = reader.read()
    assert not isinstance(before, Unavailable)
    assert not isinstance(after, Unavailable)
    assert difference(before, after) == Delta(700 + 123)
    assert longest_gap_s(after, 100.0) == pytest.approx(655.3, abs=0.1)


def test_a_counter_only_root_may_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_sockets(tmp_path)
    real = Path.read_text

    def refuse(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    answer = RaplReader(tmp_path).read()
    assert isinstance(answer, Unavailable)
    assert "root only" in answer.reason


@pytest.mark.parametrize("energy", ["", "many", "-5"])
def test_an_odd_counter_is_not_zero(tmp_path: Path, energy: str) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", energy)
    assert isinstance(RaplReader(tmp_path).read(), Unavailable)


def test_no_tree_is_said(tmp_path: Path) -> None:
    answer = RaplReader(tmp_path / "nothing").read()
    assert isinstance(answer, Unavailable)
    assert "no RAPL package" in answer.reason


@given(start=st.integers(0, RANGE - 1), steps=st.lists(st.integers(0, RANGE - 1), max_size=20))
def test_no_wrap_loses_energy(start: int, steps: list[int]) -> None:
    at, seen = start, 0
    for step in steps:
        following = (at + step) % RANGE
        seen += difference({"p": Counter(at, RANGE)}, {"p": Counter(following, RANGE)}).energy_uj
        at = following
    assert seen == sum(steps)


def test_what_is_not_known_is_named() -> None:
    before = {"a": Counter(10), "b": Counter(5), "c": Counter(1)}
    after = {"a": Counter(4), "b": Counter(9), "d": Counter(3)}
    assert difference(before, after) == Delta(4, ("c", "d", "a"))
    assert difference({"a": Counter(99, 200)}, {"a": Counter(3, 50)}) == Delta(0, ("a",))
    assert longest_gap_s(before, 10.0) == float("inf")


class FakeNvml:
    class NVMLError(Exception):
        pass

    def __init__(self, millijoules: list[int | None]) -> None:
        self.millijoules = millijoules
        self.opened = 0

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:
        return f"GPU-{handle}" if handle else b"GPU-0"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        value = self.millijoules[handle]
        if value is None:
            raise self.NVMLError("Not Supported")
        return value


def test_devices_are_read_by_name_in_microjoules() -> None:
    nvml = FakeNvml([5, 7])
    reader = NvmlReader(nvml)
    before = reader.read()
    assert before == {"GPU-0": Counter(5000), "GPU-1": Counter(7000)}
    nvml.millijoules = [25, 3]  # the second driver was loaded anew
    after = reader.read()
    assert not isinstance(before, Unavailable)
    assert not isinstance(after, Unavailable)
    assert difference(before, after) == Delta(20_000, ("GPU-1",))
    assert nvml.opened == 1
    reader.close()
    reader.close()
    assert nvml.opened == 0


def test_a_device_without_a_counter_is_said() -> None:
    answer = NvmlReader(FakeNvml([None])).read()
    assert isinstance(answer, Unavailable)
    assert "Not Supported" in answer.reason
    assert isinstance(NvmlReader(FakeNvml([])).read(), Unavailable)


def test_nvml_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    answer = import_nvml()
    assert isinstance(answer, Unavailable)
    assert "nvidia-ml-py" in answer.reason
    monkeypatch.setitem(sys.modules, "pynvml", sys)
    assert import_nvml() is sys


def test_idleness_is_kept_apart() -> None:
    assert split_idle(10_000_000, 1_000_000, 4_000) == Split(4_000_000, 6_000_000)
    assert split_idle(3_000_000, 1_000_000, 4_000) == Split(3_000_000, 0)


def test_a_modelled_joule_says_so() -> None:
    assert modelled(2_000_000, 15_000, JouleSource.MODEL) == Energy(30_000_000, JouleSource.MODEL)
    with pytest.raises(ValueError, match="labelled"):
        modelled(1, 1, JouleSource.COUNTER)


def test_a_sum_is_as_good_as_its_worst_part() -> None:
    assert worst_source([]) is JouleSource.NONE
    parts = [JouleSource.COUNTER, JouleSource.ASSUMPTION, JouleSource.MODEL]
    assert worst_source(parts) is JouleSource.ASSUMPTION


@given(
    energy=st.integers(0, 10**12), tokens=st.lists(st.integers(0, 4096), min_size=1, max_size=64)
)
def test_shares_add_up_and_follow_the_tokens(energy: int, tokens: list[int]) -> None:
    shares = share(energy, tokens)
    assert sum(shares) == energy
    total = sum(tokens)
    for part, count in zip(shares, tokens, strict=True):
        fair = energy * count / total if total else energy / len(tokens)
        assert abs(part - fair) < 1 + 1e-9 * energy


def test_odd_shares_are_refused() -> None:
    assert share(5, []) == []
    assert share(5, [0, 0]) == [3, 2]
    with pytest.raises(ValueError, match="negative"):
        share(-1, [1])
