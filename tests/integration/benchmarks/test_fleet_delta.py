"""The delta figures come from deltas that were applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fleet_delta import main, measure
from edge_runtime.bundle.files import RealFiles
from tests.support.graphs import write_graph_bundle


def test_every_changed_file_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for release in (1, 2):
        write_graph_bundle(tmp_path / str(release), RealFiles(), release)
    rows = {row[0]: row[1:] for row in measure(tmp_path / "1", tmp_path / "2")}
    size, alone, known, delta = rows["int8/model.onnx_data"]
    assert delta < min(alone, known) < size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["fleet_delta", str(tmp_path / "1"), str(tmp_path / "2")])
        main()
    assert "| all |" in capsys.readouterr().out
