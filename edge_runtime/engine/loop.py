"""The engine thread: the one place where models run.

It gives every busy decoder one step and every busy encoder one batch in turn, and sleeps when
nothing waits. Workers are added and removed while it runs (a model is swapped).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from edge_runtime.engine.decode_worker import DecodeWorker
from edge_runtime.engine.encode_worker import EncodeWorker
from edge_runtime.errors import CapacityError, EngineError

log: Final = structlog.get_logger("edge_runtime.engine")

Worker = DecodeWorker | EncodeWorker
_STOPPING = "the daemon is stopping; retry later"


class EngineLoop:
    """Owns the engine thread. Use as a context manager; leaving ends every request in it.

    `on_crash` is called in the engine thread if it fails; by default nobody is told.
    """

    def __init__(self) -> None:
        self.on_crash: Callable[[BaseException], None] = _ignore
        self._workers: tuple[Worker, ...] = ()
        self._wake = threading.Event()
        self._stopping = False
        self._change = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def add(self, worker: Worker) -> None:
        """Give the thread one more worker."""
        with self._change:
            self._workers = (*self._workers, worker)
        self._wake.set()

    def remove(self, worker: Worker) -> None:
        """Take a worker out; what waits in it is not run any more."""
        with self._change:
            self._workers = tuple(other for other in self._workers if other is not worker)

    def wake(self) -> None:
        """Something was submitted or cancelled."""
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wake.clear()  # before looking, so that no submission is missed
                if not self._turn():
                    self._wake.wait()
        except Exception as error:
            log.exception("the engine thread failed", action="engine_failed")
            self._end_all("the engine failed; see the daemon's log")
            self.on_crash(error)
        else:
            self._end_all(_STOPPING)

    def _turn(self) -> bool:
        """One step or batch of every worker that has work. False when none had."""
        workers = self._workers
        decoding = any(isinstance(w, DecodeWorker) and w.busy for w in workers)
        worked = False
        for worker in workers:
            if isinstance(worker, DecodeWorker):
                worked |= worker.turn()
            else:
                worked |= worker.turn(beside_decoder=decoding)
        return worked

    def _end_all(self, reason: str) -> None:
        for worker in self._workers:
            if isinstance(worker, DecodeWorker):
                worker.abort_all(reason)
            elif reason == _STOPPING:
                worker.abort_all(CapacityError(reason, retry_after_s=5.0, status=503))
            else:
                worker.abort_all(EngineError(reason))


def _ignore(error: BaseException) -> None:
    """Nobody asked to be told."""
