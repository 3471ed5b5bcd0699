"""The guard simulation: its rules do what they say, and its check can fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.fleet_guards import (
    LIMIT,
    broken_promises,
    evidence_rule,
    fixed_rule,
    quality,
    quality_table,
    safety,
    safety_table,
)
from edge_runtime.stats.exposure import ExposureProcess


def test_the_fixed_rule_waits_for_ten_boxes() -> None:
    harmed = np.array([True] + [False] * 30)
    assert fixed_rule(harmed) == 10
    assert fixed_rule(np.array([False] * 25 + [True])) is None


def test_the_table_halts_where_the_guard_does() -> None:
    rule = evidence_rule(0.05)
    for seed in range(20):
        harmed = np.random.default_rng(seed).random(80) < 0.15
        process, end = ExposureProcess(LIMIT, 0.05), None
        for exposed, bad in enumerate(harmed, 1):
            process.expose()
            if bad and process.harm():
                end = exposed
                break
        assert rule(harmed) == end


def test_few_runs_already_show_the_difference_and_the_check_can_fail() -> None:
    safe, good = safety(60), quality(6)
    by = {(item.rule, item.rate): item.halted for item in safe}
    assert by["guard, level 5 %", 0.02] < by["over 5 % after 10", 0.02]
    assert by["guard, level 5 %", 0.2] > 0.9
    assert broken_promises(safe, good) == []
    worse = [replace(item, halted=0.5) if item.rate == LIMIT else item for item in safe]
    assert [item.rule for item in broken_promises(worse, good)][:1] == ["guard, level 5 %"]
    assert safety_table(safe, "harmed").count("\n") == 7
    assert "mean rise over 1 point" in quality_table(good)
