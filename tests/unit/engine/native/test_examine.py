"""A library is trusted only after it has computed what is known."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.engine import native
from edge_runtime.engine.native import build

FAKE = """
const char *edge_kernel_set(void) {{ return "x"; }}
int edge_self_test(void) {{ return {products}; }}
int edge_attention_self_test(void) {{ return {attention}; }}
"""


def test_no_library_says_so(tmp_path: Path) -> None:
    verdict = native.examine(tmp_path / "librow.so")
    assert verdict.path is None
    assert "not built" in verdict.reason


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "librow.so"
    broken.write_bytes(b"not an ELF file")
    verdict = native.examine(broken)
    assert verdict.path is None
    assert "cannot be loaded" in verdict.reason


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("int other(void) { return 0; }", "another build"),
        ("const char *edge_kernel_set(void) { return 0; }", "no AVX2"),
        (FAKE.format(products=3, attention=0), "products are wrong on this processor (3 rows)"),
        (FAKE.format(products=0, attention=5), "attention is wrong on this processor (row 5)"),
    ],
)
def test_a_library_that_fails_its_test_is_refused(tmp_path: Path, source: str, reason: str) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT TESTED: no C compiler on this machine")
    code = tmp_path / "fake.c"
    code.write_text(source)
    library = tmp_path / "librow.so"
    subprocess.run([compiler, "-shared", "-fPIC", code, "-o", library], check=True)
    verdict = native.examine(library)
    assert verdict.path is None
    assert reason in verdict.reason


def test_the_verdict_names_the_instruction_set() -> None:
    verdict = native.examine(native.LIBRARY)
    if verdict.path is None:
        pytest.skip(f"NATIVE OPERATORS NOT TESTED: {verdict.reason}")
    assert verdict.reason in ("avx512vnni", "avxvnni", "avx2")
    assert native.library_path() == verdict.path


def test_other_machines_get_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    with pytest.raises(build.NoCompilerError, match="aarch64"):
        build.compiler()
