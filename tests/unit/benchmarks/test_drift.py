"""The drift simulation draws what it says, and its tables say what was found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.drift import (
    Change,
    Delay,
    Quiet,
    main,
    markdown,
    quiet,
    scores,
    stream,
    terms,
    tokens,
)
from edge_runtime.router.watch.contract import Signal
from edge_runtime.router.watch.drift import DriftWatch
from edge_runtime.router.watch.settings import AuditSettings, DriftSettings


def test_draws_have_the_means_they_are_named_after() -> None:
    generator = np.random.default_rng(1)
    assert tokens(generator, 20_000, 2.0).mean() == pytest.approx(120, rel=0.03)
    assert scores(generator, 5000, 0.9).mean() < scores(generator, 5000, 0.1).mean() - 0.2
    drawn = terms(generator)
    assert drawn.coverage == pytest.approx(0.77, abs=0.005)
    assert list(drawn.score_deciles) == sorted(drawn.score_deciles)


def test_a_large_change_is_seen_and_none_is_not() -> None:
    generator = np.random.default_rng(2)
    watch = DriftWatch(terms(generator), DriftSettings(), AuditSettings())
    assert stream(watch, generator, 300, Change("none")) is None
    seen = stream(watch, generator, 500, Change("all new", out_of_scope=0.9))
    assert seen is not None
    assert seen[1].signal in {Signal.ESCALATION, Signal.SCORES}
    assert quiet(2, 50, 3).alarmed == 0


def test_the_tables_say_what_was_found() -> None:
    text = markdown(
        Quiet(60, 10_000, 1, 0.0004, 0.089, {"scores cusum": 1}),
        [Delay("twice", 0.031, 60, 60, 161, 170, 4000, {"tokens cusum": 60}),
         Delay("a little", 0.04, 60, 3, 4000, 4000, 4000, {})],
    )  # fmt: skip
    assert "1 of 60 runs of 10,000 requests" in text
    assert "| twice | 3.1% | 60 of 60 | 161 | 170 | tokens cusum 60 |" in text
    assert "| a little | 4.0% | 3 of 60 | more than 4,000 | more than 4,000 | - |" in text


def test_the_command_writes_both_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.drift.CHANGES", (Change("all new", out_of_scope=1.0),))
    monkeypatch.setattr("benchmarks.drift.QUIET_BEFORE", 20)
    table, figures = tmp_path / "table.md", tmp_path / "figures.json"
    main(["--runs", "2", "--requests", "20", "--limit", "300", "--markdown", str(table),
          "--json", str(figures)])  # fmt: skip
    assert capsys.readouterr().out.strip() == table.read_text().strip()
    assert json.loads(figures.read_text())["delays"][0]["seen"] == 2
