"""The native sources compile without a warning and run clean under the sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.engine.native import build
from edge_runtime.engine.native.build import SOURCE

HARNESS = Path(__file__).with_name("native_harness.c")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g")


def gcc() -> str:
    path = shutil.which("gcc")
    if path is None:
        pytest.skip("SANITIZERS NOT RUN: no gcc on this machine")
    return path


def run_harness(directory: Path, *flags: str) -> str:
    compiler = gcc()
    hidden = "-fvisibility=default"  # the harness names instruction sets through inner functions
    library = build.build(directory / "librow.so", [compiler], [*flags, hidden])
    program = directory / "harness"
    command = [compiler, "-std=gnu11", *flags, f"-I{SOURCE}", str(HARNESS), str(library)]
    subprocess.run([*command, f"-Wl,-rpath,{directory}", "-o", str(program)], check=True)
    done = subprocess.run(
        [program], capture_output=True, text=True, timeout=150, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


def test_products_are_right_under_the_sanitizers(tmp_path: Path) -> None:
    ran = run_harness(tmp_path, *SANITIZE)
    assert "avx2" in ran.split()


def test_a_source_error_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        build.build(tmp_path / "librow.so", [gcc()], ["-DEDGE_KERNELS_H"])
    assert not (tmp_path / "librow.so").exists()
