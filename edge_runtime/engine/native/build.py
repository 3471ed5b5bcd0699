"""Compile the native operators: `python -m edge_runtime.engine.native.build` puts them in place.

Used by the wheel's build hook and in a source tree. The compiler is zig's from PyPI when it is
installed (it targets an old glibc, so the library runs on older systems than the one that built
it), else the system's. On anything but x86-64 Linux there is nothing to compile.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
LIBRARY = "librow.so"
TARGET = "x86_64-linux-gnu.2.28"

_FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    # A row's bits must not depend on which loop computed it.
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
)
_UNITS: dict[str, tuple[str, ...]] = {
    "avx512vnni.c": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"),
    "avxvnni.c": ("-mavx2", "-mfma", "-mavxvnni"),
    "avx2.c": ("-mavx2", "-mfma"),
    "cpu.c": (),
    "weights.c": (),
    "linear.c": (),
    "attention.c": (),
    "operators.c": (),
    "packed_attention.c": (),
    "raw.c": (),
    "self_test.c": (),
}


class NoCompilerError(Exception):
    """There is no C compiler, or nothing to compile for this machine; the text says which."""


def compiler() -> list[str]:
    """The compiler's command. Raises `NoCompilerError`."""
    machine = f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        raise NoCompilerError(f"{machine} has no native operators, only x86-64 Linux has")
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", TARGET]
    for name in ("cc", "gcc", "clang"):
        path = shutil.which(name)
        if path is not None:
            return [path]
    raise NoCompilerError("no C compiler; install the package `ziglang`, gcc or clang")


def build(target: Path, command: Sequence[str] | None = None, extra: Sequence[str] = ()) -> Path:
    """Compile and link into the file `target`; returns it. `extra` flags go to every step.

    Raises `NoCompilerError`, and `CalledProcessError` when the compiler refuses (its messages
    have gone to stderr). Costs some seconds.
    """
    base = list(command or compiler())
    with tempfile.TemporaryDirectory() as directory:
        objects = []
        for unit, flags in _UNITS.items():
            objects.append(str(Path(directory, unit).with_suffix(".o")))
            line = [*base, *_FLAGS, *flags, *extra, "-c", str(SOURCE / unit), "-o", objects[-1]]
            subprocess.run(line, check=True)  # noqa: S603 - our own arguments
        made = Path(directory, LIBRARY)
        link = [*base, "-shared", *extra, *objects, "-o", str(made), "-lpthread", "-lm"]
        subprocess.run(link, check=True)  # noqa: S603 - our own arguments
        # Rename: a process that has the old library mapped keeps it.
        staged = target.with_name(f".{target.name}.new")
        shutil.copy2(made, staged)
        staged.replace(target)
    return target


def main() -> int:
    """Build in place; 0 when it worked, 1 with the reason on stderr when it cannot."""
    try:
        made = build(SOURCE / LIBRARY)
    except NoCompilerError as error:
        sys.stderr.write(f"native operators not built: {error}\n")
        return 1
    sys.stdout.write(f"built {made}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
