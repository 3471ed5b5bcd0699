"""The one place that makes onnxruntime sessions.

Sessions run on the CPU. The number of threads is the caller's, from `usable_cpus`. Weights in
external data files are mapped, not read. Between runs threads always sleep: an edge box has other
work. Whether they spin between the operators of one run is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from edge_runtime.engine.cpu import cpu_features, cpu_quota, usable_cpus
from edge_runtime.engine.native import library_path
from edge_runtime.errors import BundleError, EngineError

__all__ = ["cpu_features", "cpu_quota", "engine_errors", "make_session", "usable_cpus"]

_MESSAGE_LINES = 2
_ONLY_FATAL = 4  # onnxruntime's own log; every error reaches the caller as an exception

_Errors = tuple[type[Exception], ...]

# The graph or its weights are at fault: the same bytes fail on every box of this build.
_CONTENT_ERRORS: _Errors = (
    ort_errors.InvalidProtobuf,
    ort_errors.InvalidGraph,
    ort_errors.InvalidArgument,
    ort_errors.NoSuchFile,
    ort_errors.NoModel,
    ort_errors.NotImplemented,
    ort_errors.Fail,
)
_ALL_ERRORS: _Errors = (
    *_CONTENT_ERRORS,
    ort_errors.RuntimeException,
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.NotFound,
)
_LOAD_ERRORS: _Errors = (*_ALL_ERRORS, MemoryError, RuntimeError)
_RUN_ERRORS: _Errors = (*_ALL_ERRORS, MemoryError)


def make_session(
    graph: Path, *, threads: int, spinning: bool = False, native: bool = False
) -> ort.InferenceSession:
    """Load `graph` (with its external data beside it) for the CPU.

    `threads` counts the caller's thread too. `spinning` keeps idle threads busy between
    operators, but not between runs: some percent faster for one model alone on its box,
    harmful beside anything else. `native` registers this package's own operators, which native
    graphs need. Raises `BundleError` when the graph cannot be loaded and `EngineError` when the
    machine cannot (memory, no native operators). Costs the reading of all weights and a second
    copy of those that the kernels repack.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if not graph.is_file():
        raise BundleError(str(graph), "no such graph; build or fetch the bundle again")
    try:
        return ort.InferenceSession(
            str(graph),
            sess_options=_options(threads, spinning=spinning, native=native),
            providers=["CPUExecutionProvider"],
        )
    except _CONTENT_ERRORS as error:
        reason = f"onnxruntime {ort.__version__} cannot load it: {_first_lines(error)}"
        raise BundleError(str(graph), reason) from error
    except _LOAD_ERRORS as error:
        message = f"{graph}: loading failed on this machine (memory?): {_first_lines(error)}"
        raise EngineError(message) from error


@contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """Turn onnxruntime's exceptions inside the block into `EngineError` naming `what`."""
    try:
        yield
    except _RUN_ERRORS as error:
        raise EngineError(f"{what} failed: {_first_lines(error)}") from error


def _options(threads: int, *, spinning: bool, native: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Patterns are kept for every combination of input shapes seen; packed steps hardly repeat
    # one, so the table would grow for as long as the daemon lives.
    options.enable_mem_pattern = False
    options.log_severity_level = _ONLY_FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if native:
        library = library_path()
        if library is None:
            raise EngineError("no native operators on this machine; load the portable graph")
        options.register_custom_ops_library(str(library))
    return options


def _first_lines(error: BaseException) -> str:
    """The start of a message: onnxruntime appends whole stack listings."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:_MESSAGE_LINES]) or type(error).__name__
