"""Native onnxruntime operators for per-row INT8, where the processor has them.

`library_path` decides; the portable graph stays for every other machine. The operators are
described in `operators.c`, their arithmetic in `kernels.h`.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import structlog

__all__ = ["DOMAIN", "LIBRARY", "Verdict", "examine", "library_path"]

DOMAIN = "edge_runtime"
LIBRARY = Path(__file__).resolve().parent / "librow.so"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the library may be used: `path` with its instruction set, or why not."""

    path: Path | None
    reason: str


def library_path() -> Path | None:
    """The library to register with a session, or None where the portable graph must serve.

    Looks once a process, and logs what it found.
    """
    return _verdict().path


@functools.cache
def _verdict() -> Verdict:
    verdict = examine(LIBRARY)
    found = verdict.path is not None
    _log.info("native operators", action="native_operators", usable=found, reason=verdict.reason)
    return verdict


def examine(library: Path) -> Verdict:
    """Load `library` and let it compute what is known before trusting it."""
    if not library.is_file():
        return Verdict(None, "not built for this machine; see docs/development.md")
    try:
        native = ctypes.CDLL(str(library))
    except OSError as error:
        return Verdict(None, f"cannot be loaded: {error}")
    try:
        native.edge_kernel_set.restype = ctypes.c_char_p
        name = native.edge_kernel_set()
        if name is None:
            return Verdict(None, "this processor has no AVX2")
        wrong = native.edge_self_test()
        askew = native.edge_attention_self_test()
    except AttributeError as error:
        return Verdict(None, f"another build's library: {error}")
    if wrong:
        return Verdict(None, f"its products are wrong on this processor ({wrong} rows)")
    if askew:
        return Verdict(None, f"its attention is wrong on this processor (row {askew})")
    return Verdict(library, name.decode("ascii"))
