"""Turns scheduler plans into tokens: one decoder, its sequences, their samplers and texts.

`submit` and `cancel` may be called from any thread; `turn` only from the engine thread. The lock
is held for planning and bookkeeping, never while the model runs, so a caller waits microseconds.

Events go to a `Deliver` callback in one batch a turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edge_runtime.core import (
    DecoderModel,
    FinishReason,
    FloatArray,
    GenerateRequest,
    TokenEvent,
)
from edge_runtime.engine.sampler import Sampled, SamplerState, sample
from edge_runtime.errors import CapacityError, EdgeError, EngineError
from edge_runtime.metrics import EngineObserver
from edge_runtime.scheduler.decode import DecodeScheduler
from edge_runtime.scheduler.sequences import DecodeLimits, Planned, RunningSequence

Event = tuple[str, TokenEvent]
Deliver = Callable[[Sequence[Event]], None]


class TextPieces(Protocol):
    """What the worker needs of `TextStream`."""

    stopped: bool

    def push(self, token: int) -> str:
        """Add a token, get the text that became certain."""

    def finish(self) -> str:
        """Get what was held back."""


@dataclass(slots=True, eq=False)
class _Job:
    """A sequence on its way: what the scheduler does not need to know of it."""

    sequence: RunningSequence
    sampler: SamplerState
    text: TextPieces
    queue_s: float = 0.0
    busy_s: float = 0.0
    last_token_s: float | None = None


@dataclass(slots=True)
class DecodeWorker:
    """One generating model in the engine thread.

    `make_text(stop)` gives a fresh text stream. `clock` gives monotonic seconds and `draw_seed`
    a seed for requests without one. `deliver` gets `(request_id, event)` pairs and must not
    block.
    """

    model: str
    decoder: DecoderModel
    limits: DecodeLimits
    eos_token_ids: frozenset[int]
    make_text: Callable[[Sequence[str]], TextPieces]
    deliver: Deliver
    observer: EngineObserver
    clock: Callable[[], float]
    draw_seed: Callable[[], int]
    scheduler: DecodeScheduler = field(init=False)
    _jobs: dict[str, _Job] = field(default_factory=dict)
    _cancelled: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: EdgeError | None = None

    def __post_init__(self) -> None:
        self.scheduler = DecodeScheduler(self.limits)

    def submit(self, request: GenerateRequest) -> None:
        """Queue a request. Ids must be unique.

        Raises like `DecodeScheduler.submit`, and the error of `abort_all` after it.
        """
        sampler = SamplerState.start(request.params, request.prompt, self.draw_seed())
        text = self.make_text(request.params.stop)
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if request.request_id in self._jobs:
                raise ValueError(f"request {request.request_id} is queued already")
            try:
                sequence = self.scheduler.submit(request, self.clock())
            except CapacityError as error:
                self.observer.observe_rejected(self.model, error.reason)
                raise
            self._jobs[request.request_id] = _Job(sequence, sampler, text)
        self._report_load()

    def cancel(self, request_id: str) -> None:
        """End a sequence before the next step; unknown ids are fine (it ended by itself)."""
        with self._lock:
            if request_id in self._jobs:
                self._cancelled.add(request_id)

    @property
    def busy(self) -> bool:
        """True while sequences run or wait."""
        return bool(self._jobs)

    def turn(self) -> bool:
        """Run one step. False when there was nothing to do."""
        with self._lock:
            events = self._drop_cancelled() + self._drop_expired()
            planned = self.scheduler.plan()
        if planned is None:
            self._hand_over(events)
            return bool(events)
        started_s = self.clock()
        self._start(planned, started_s)
        try:
            logits = self.decoder.step(planned.plan)
            sampled = self._sample(planned, logits)
        except EngineError as error:
            events += self._fail(planned, str(error))
            self._hand_over(events)
            return True
        now_s = self.clock()
        with self._lock:
            self.scheduler.commit(planned, [one.token_id for one in sampled])
            self.scheduler.cost.observe(planned.plan.token_count, (now_s - started_s) * 1000.0)
            self._share(planned, now_s - started_s)
            for sequence, one in zip(planned.sampled, sampled, strict=True):
                events.append(self._advance(sequence, one, now_s))
        self.observer.observe_step(
            self.model,
            seconds=now_s - started_s,
            rows=len(planned.plan.rows),
            tokens=planned.plan.token_count,
            slots=self.limits.slots,
        )
        self._hand_over(events)
        return True

    def abort_all(self, error: EdgeError) -> None:
        """The engine stops: end every sequence with an error event, and take no more."""
        last = TokenEvent(None, "", finish_reason=FinishReason.ERROR, error=str(error))
        with self._lock:
            self._closed = error
            events = [self._end(job, last) for job in list(self._jobs.values())]
        self._hand_over(events)

    def _start(self, planned: Planned, now_s: float) -> None:
        for joined in planned.joined:
            choice, request = joined.choice, joined.sequence.request
            if choice.copy_from is not None:
                self.decoder.copy_prefix(choice.copy_from, choice.slot, choice.cached_len)
            waited_s = now_s - request.arrival_s
            self._jobs[request.request_id].queue_s = waited_s
            self.observer.observe_queue_wait(self.model, waited_s, request.request_class)

    def _share(self, planned: Planned, seconds: float) -> None:
        """Share a step's seconds among its sequences by the tokens each had in it."""
        each_s = seconds / planned.plan.token_count
        for sequence, row in zip(planned.sequences, planned.plan.rows, strict=True):
            self._jobs[sequence.request.request_id].busy_s += each_s * row.new_len

    def _sample(self, planned: Planned, logits: FloatArray) -> list[Sampled]:
        members = planned.sampled
        if not members:
            return []
        samplers = [self._jobs[s.request.request_id].sampler for s in members]
        peaks = np.argmax(logits, axis=1)
        finite = np.isfinite(logits[np.arange(len(members)), peaks])
        if not finite.all():
            raise EngineError(f"{self.model}: the model gave no finite logits; check its bundle")
        return [
            Sampled(int(peak)) if sampler.is_plain_greedy else sample(row, sampler)
            for row, peak, sampler in zip(logits, peaks, samplers, strict=True)
        ]

    def _advance(self, sequence: RunningSequence, one: Sampled, now_s: float) -> Event:
        """The event of a sampled token; ends the sequence when it was the last."""
        request = sequence.request
        params = request.params
        job = self._jobs[request.request_id]
        if job.last_token_s is None:
            self.observer.observe_ttft(self.model, now_s - request.arrival_s, request.request_class)
        else:
            self.observer.observe_inter_token(self.model, now_s - job.last_token_s)
        first = job.last_token_s is None
        job.last_token_s = now_s
        ends = one.token_id in self.eos_token_ids and not params.ignore_eos
        ends = ends or one.token_id in params.stop_token_ids
        text = "" if ends else job.text.push(one.token_id)
        reason: FinishReason | None = None
        if ends or job.text.stopped:
            reason = FinishReason.STOP
        elif (
            sequence.output_len >= params.max_tokens or len(sequence.tokens) >= self.limits.max_len
        ):
            reason = FinishReason.LENGTH
        if reason is not None:
            text += job.text.finish()
            reason = _final_reason(reason, job.text)
        event = TokenEvent(
            one.token_id,
            text,
            logprob=one.logprob,
            top_logprobs=one.top_logprobs,
            finish_reason=reason,
            cached_prompt_tokens=sequence.reused_len if first else 0,
            queue_s=job.queue_s if first else 0.0,
            busy_s=job.busy_s if reason is not None else 0.0,
        )
        return self._end(job, event) if reason is not None else (request.request_id, event)

    def _drop_cancelled(self) -> list[Event]:
        events = []
        for request_id in self._cancelled:
            job = self._jobs.get(request_id)
            if job is not None:
                event = TokenEvent(None, "", finish_reason=FinishReason.CANCELLED)
                events.append(self._end(job, event))
        self._cancelled.clear()
        if not self._jobs:
            self.scheduler.check_integrity()
        return events

    def _drop_expired(self) -> list[Event]:
        """End what waited past its deadline: its caller has given up by now."""
        events = []
        for sequence in self.scheduler.expired(self.clock()):
            self.observer.observe_rejected(self.model, "deadline")
            event = TokenEvent(None, "", finish_reason=FinishReason.CANCELLED)
            events.append(self._end(self._jobs[sequence.request.request_id], event))
        return events

    def _fail(self, planned: Planned, message: str) -> list[Event]:
        with self._lock:
            self.scheduler.abandon_step(planned)
            return [
                self._end(
                    self._jobs[sequence.request.request_id],
                    TokenEvent(None, "", finish_reason=FinishReason.ERROR, error=message),
                )
                for sequence in planned.sequences
            ]

    def _end(self, job: _Job, event: TokenEvent) -> Event:
        """Take a job out, with the lock held; `event` must have a finish reason."""
        sequence = job.sequence
        assert event.finish_reason is not None
        self.scheduler.finish(sequence)
        del self._jobs[sequence.request.request_id]
        self.observer.observe_sequence(
            self.model,
            prompt_tokens=sequence.prompt_len,
            cached_tokens=sequence.reused_len,
            output_tokens=sequence.output_len,
            finish_reason=event.finish_reason,
        )
        return sequence.request.request_id, event

    def _hand_over(self, events: Sequence[Event]) -> None:
        if events:
            self.deliver(events)
        self._report_load()

    def _report_load(self) -> None:
        self.observer.observe_load(
            self.model,
            waiting=self.scheduler.waiting_count,
            running=self.scheduler.running_count,
            slots=self.limits.slots,
        )


def _final_reason(reason: FinishReason, text: TextPieces) -> FinishReason:
    """The end that was held back may have completed a stop string."""
    return FinishReason.STOP if text.stopped else reason
