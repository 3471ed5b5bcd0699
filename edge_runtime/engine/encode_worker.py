"""Runs encoder requests in batches by token budget, one batch a turn.

Inputs of all waiting requests of a class are batched together, sorted by length inside a window,
oldest first, so that one long request cannot hold a short one up for more than a batch.
Interactive requests go before batch ones, which get every fourth turn all the same. While a decoder
is busy the budget shrinks to what fits `busy_target_ms`, learned from the runs.

`submit` may be called from any thread; `turn` only from the engine thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from edge_runtime.core import EncoderModel, FloatArray, RequestClass
from edge_runtime.errors import CapacityError, EdgeError, UsageError
from edge_runtime.metrics import EngineObserver
from edge_runtime.scheduler.cost import StepCost
from edge_runtime.scheduler.encoder_batches import plan_batches

WINDOW_BUDGETS = 8
"""Waiting inputs looked at for one batch, in token budgets; sorting further gains nothing."""

MAX_ROWS = 256

BATCH_EVERY = 4
"""Turns of which one is given to batch requests while interactive ones wait too."""

_Queue = deque[tuple["_Job", int]]


@dataclass(slots=True, eq=False)
class _Job:
    """One request: its output rows fill as batches end."""

    inputs: Sequence[Sequence[int]]
    output: FloatArray
    future: Future[FloatArray]
    left: int


@dataclass(slots=True)
class EncodeWorker:
    """One encoder in the engine thread."""

    model: str
    encoder: EncoderModel
    batch_tokens: int
    max_waiting_tokens: int
    busy_target_ms: float
    observer: EngineObserver
    clock: Callable[[], float]
    cost: StepCost = field(default_factory=lambda: StepCost(base_ms=2.0, slope_ms=0.2))
    _interactive: _Queue = field(default_factory=deque)
    _batch: _Queue = field(default_factory=deque)
    _turns: int = 0
    _waiting_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: EdgeError | None = None

    def submit(
        self,
        inputs: Sequence[Sequence[int]],
        request_class: RequestClass = RequestClass.INTERACTIVE,
    ) -> Future[FloatArray]:
        """Queue inputs; the future gives float32 [len(inputs), width].

        Cancelling the future takes what has not run yet out of the queue. Raises `UsageError`
        for an input that would fail the batch it runs in, `CapacityError` when too many tokens
        wait already, and the error of `abort_all` after it.
        """
        self._check(inputs)
        tokens = sum(map(len, inputs))
        future: Future[FloatArray] = Future()
        output = np.empty((len(inputs), self.encoder.width), np.float32)
        if not inputs:
            future.set_result(output)
            return future
        job = _Job(inputs, output, future, len(inputs))
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if self._waiting_tokens and self._waiting_tokens + tokens > self.max_waiting_tokens:
                wait_s = self.cost.step_ms(self._waiting_tokens) / 1000.0
                self.observer.observe_rejected(self.model, "queue_full")
                raise CapacityError(
                    f"{self._waiting_tokens} encoder tokens wait already; retry later",
                    retry_after_s=max(1.0, wait_s),
                    reason="queue_full",
                )
            queue = self._batch if request_class is RequestClass.BATCH else self._interactive
            queue.extend((job, index) for index in range(len(inputs)))
            self._waiting_tokens += tokens
        return future

    @property
    def busy(self) -> bool:
        """True while inputs wait."""
        return bool(self._interactive or self._batch)

    def waiting(self, request_class: RequestClass) -> int:
        """Inputs of a class that have not run yet."""
        return len(self._batch if request_class is RequestClass.BATCH else self._interactive)

    def turn(self, *, beside_decoder: bool) -> bool:
        """Run one batch. False when nothing waited."""
        budget = self.batch_tokens
        if beside_decoder:
            budget = min(budget, max(1, self.cost.tokens_within(self.busy_target_ms)))
        with self._lock:
            batch = self._take(budget)
        if not batch:
            return False
        inputs = [job.inputs[index] for job, index in batch]
        tokens = sum(map(len, inputs))
        started_s = self.clock()
        try:
            rows = self.encoder.run(inputs)
        except EdgeError as error:
            self._fail([job for job, _ in batch], error)
            return True
        seconds = self.clock() - started_s
        self.cost.observe(tokens, seconds * 1000.0)
        self.observer.observe_encoder_batch(
            self.model, seconds=seconds, inputs=len(inputs), tokens=tokens
        )
        for (job, index), row in zip(batch, rows, strict=True):
            job.output[index] = row
            job.left -= 1
            if job.left == 0 and job.future.set_running_or_notify_cancel():
                job.future.set_result(job.output)
        return True

    def abort_all(self, error: EdgeError) -> None:
        """The engine stops: every waiting request gets `error`, and no more are taken."""
        with self._lock:
            self._closed = error
            jobs = [job for job, _ in (*self._interactive, *self._batch)]
            self._interactive.clear()
            self._batch.clear()
            self._waiting_tokens = 0
        self._fail(jobs, error)

    def _check(self, inputs: Sequence[Sequence[int]]) -> None:
        for at, tokens in enumerate(inputs):
            if not 1 <= len(tokens) <= self.encoder.max_len:
                raise UsageError(
                    f"input {at} has {len(tokens)} tokens; {self.model} takes 1 to "
                    f"{self.encoder.max_len}",
                    param="input",
                )

    def _take(self, budget: int) -> list[tuple[_Job, int]]:
        """The batch that holds the oldest waiting input, out of a bounded window."""
        queue = self._queue()
        window: list[tuple[_Job, int]] = []
        tokens = 0
        while queue and tokens < WINDOW_BUDGETS * self.batch_tokens:
            job, index = queue.popleft()
            if job.future.cancelled() or job.future.done():
                self._waiting_tokens -= len(job.inputs[index])
                continue
            window.append((job, index))
            tokens += len(job.inputs[index])
        if not window:
            return []
        batches = plan_batches([len(job.inputs[index]) for job, index in window], budget, MAX_ROWS)
        chosen = set(next(batch for batch in batches if 0 in batch))
        queue.extendleft(
            item for place, item in reversed(list(enumerate(window))) if place not in chosen
        )
        batch = [window[place] for place in sorted(chosen)]
        self._waiting_tokens -= sum(len(job.inputs[index]) for job, index in batch)
        return batch

    def _queue(self) -> _Queue:
        """Whose turn it is."""
        self._turns += 1
        if self._batch and (not self._interactive or self._turns % BATCH_EVERY == 0):
            return self._batch
        return self._interactive

    def _fail(self, jobs: Sequence[_Job], error: EdgeError) -> None:
        for job in jobs:
            if not job.future.done() and job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
