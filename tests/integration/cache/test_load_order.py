"""The daemon's modules load before the engine's: that order must not end the process."""

from __future__ import annotations

import subprocess
import sys


def test_the_engine_can_be_loaded_after_the_server() -> None:
    code = "import edge_runtime.server.serve, onnxruntime"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
