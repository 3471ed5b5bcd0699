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
from edge_runtime.errors import CapacityError, EdgeError, EngineError

log: Final = structlog.get_logger("edge_runtime.engine")

Worker = DecodeWorker | EncodeWorker
_REPLACED = "the model is being replaced on this box; ask again"


class EngineLoop:
    """Owns the engine thread. Use as a context manager; leaving ends every request in it.

    `on_crash` is called in the engine thread if it fails; by default nobody is told.
    """

    def __init__(self) -> None:
        self.on_crash: Callable[[BaseException], None] = _ignore
        self._workers: tuple[Worker, ...] = ()
        self._removed: list[Worker] = []
        self._wake = threading.Event()
        self._stopping = False
        self._ended: EdgeError | None = None
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
        """Give the thread one more worker; one that comes too late takes no requests."""
        with self._change:
            if self._ended is not None:
                worker.abort_all(self._ended)
            self._workers = (*self._workers, worker)
        self._wake.set()

    def remove(self, worker: Worker) -> None:
        """Take a worker out; the engine thread ends what is still in it with a 503."""
        with self._change:
            self._workers = tuple(other for other in self._workers if other is not worker)
            self._removed.append(worker)
        self._wake.set()

    def wake(self) -> None:
        """Something was submitted or cancelled."""
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wake.clear()  # before looking, so that no submission is missed
                self._end_removed()
                if not self._turn():
                    self._wake.wait()
        except Exception as error:
            log.exception("the engine thread failed", action="engine_failed")
            self.on_crash(error)  # first, so that whoever asks again is told why
            self._end_all(EngineError("the engine failed; see the daemon's log"))
        else:
            self._end_all(
                CapacityError("the daemon is stopping; retry later", retry_after_s=5.0, status=503)
            )

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

    def _end_removed(self) -> None:
        with self._change:
            removed, self._removed = self._removed, []
        for worker in removed:
            worker.abort_all(CapacityError(_REPLACED, retry_after_s=1.0, status=503))

    def _end_all(self, error: EdgeError) -> None:
        with self._change:
            self._ended = error
        for worker in (*self._workers, *self._removed):
            worker.abort_all(error)


def _ignore(error: BaseException) -> None:
    """Nobody asked to be told."""
