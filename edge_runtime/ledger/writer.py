"""One thread that owns a connection and commits what waits together.

Rules
- A command's future gets its result only after the transaction it ran in was committed.
- While one commit waits for the disk the next commands gather; the next transaction takes all of
  them. Nobody waits on a timer, and n waiting commands cost one fsync, not n.
- Commands run in the order they were submitted, each in a savepoint: one that raises takes back
  only its own changes.
- A commit that fails fails every command in it: nothing of it was acknowledged.
- Closing runs what is queued, then refuses the rest.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from edge_runtime.errors import CapacityError, EngineError
from edge_runtime.ledger.database import explain

T = TypeVar("T")
MAX_WAITING = 10_000
MAX_BATCH = 512


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    run: Callable[[sqlite3.Connection], T]
    future: Future[T]


class GroupWriter:
    """Runs commands on one connection in a thread of its own; see the module's rules.

    `after_commit(connection)` runs in the thread between transactions, when something was
    committed; upkeep belongs there. `commits` counts transactions.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        name: str = "edge-ledger",
        max_waiting: int = MAX_WAITING,
        after_commit: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        self.commits = 0
        self._connection = connection
        self._path = path
        self._after_commit = after_commit
        self._waiting: queue.Queue[_Job[Any] | None] = queue.Queue(max_waiting + 1)
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Queue a command; never blocks. Cancelling its future before it runs drops it.

        Raises `CapacityError` when too many wait: the disk is slower than the requests.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise CapacityError("the ledger is closed", retry_after_s=5.0, status=503)
            if self._waiting.qsize() >= self._max_waiting:
                raise CapacityError(
                    f"{self._max_waiting} ledger rows wait for the disk; send less, or use a "
                    "faster one",
                    retry_after_s=1.0,
                    status=503,
                )
            self._waiting.put_nowait(_Job(run, future))
        return future

    def close(self) -> None:
        """Run what is queued, commit it, and close the connection. May be called twice."""
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                self._waiting.put_nowait(None)
        self._thread.join()

    def _loop(self) -> None:
        try:
            going = True
            while going:
                batch, going = self._next_batch()
                if batch:
                    self._run(batch)
        finally:
            self._fail_the_rest()
            self._connection.close()

    def _fail_the_rest(self) -> None:
        """Let nobody wait for a thread that is gone; after a proper close nothing is left."""
        with self._lock:
            self._closed = True
            while not self._waiting.empty():
                job = self._waiting.get_nowait()
                if job is not None and job.future.set_running_or_notify_cancel():
                    job.future.set_exception(EngineError("the ledger's writer stopped; restart"))

    def _next_batch(self) -> tuple[list[_Job[Any]], bool]:
        batch: list[_Job[Any]] = []
        job = self._waiting.get()
        while job is not None:
            if job.future.set_running_or_notify_cancel():
                batch.append(job)
            if len(batch) >= MAX_BATCH:
                return batch, True
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _run(self, batch: list[_Job[Any]]) -> None:
        results: list[tuple[_Job[Any], Any, BaseException | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results.extend((job, *self._attempt(job)) for job in batch)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            for job in batch:
                job.future.set_exception(explain(self._path, error))
            return
        self.commits += 1
        for job, result, failure in results:
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(failure)
        if self._after_commit is not None:
            self._upkeep(self._after_commit)

    def _attempt(self, job: _Job[Any]) -> tuple[Any, BaseException | None]:
        self._connection.execute("SAVEPOINT command")
        result: Any = None
        failure: BaseException | None = None
        try:
            result = job.run(self._connection)
        except sqlite3.IntegrityError as error:
            failure = error
        except sqlite3.Error:
            raise  # the disk, not the command: the whole transaction fails
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the future
            failure = error
        if failure is not None:
            self._connection.execute("ROLLBACK TO command")
        self._connection.execute("RELEASE command")
        return result, failure

    def _upkeep(self, after_commit: Callable[[sqlite3.Connection], None]) -> None:
        try:
            after_commit(self._connection)
        except sqlite3.Error:
            # What callers wrote is committed; upkeep is tried again after the next commit.
            self._roll_back()

    def _roll_back(self) -> None:
        # SQLite may have rolled back by itself, for instance on a full disk.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
