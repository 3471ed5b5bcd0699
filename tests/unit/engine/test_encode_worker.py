"""Encoder requests share batches, keep their order, and end exactly once."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.core import FloatArray, RequestClass
from edge_runtime.engine.encode_worker import BATCH_EVERY, MAX_ROWS, EncodeWorker
from edge_runtime.engine.fake import FakeEncoder
from edge_runtime.errors import CapacityError, EngineError, UsageError
from edge_runtime.metrics import NullObserver
from tests.support.engine import Clock

BUDGET = 64


def make(*, max_waiting: int = 100_000, ms_per_token: float = 1.0) -> EncodeWorker:
    clock = Clock()

    def run(tokens: int) -> None:
        clock.now_s += (2.0 + ms_per_token * tokens) / 1000.0

    return EncodeWorker(
        model="fake",
        encoder=FakeEncoder(on_run=run),
        batch_tokens=BUDGET,
        max_waiting_tokens=max_waiting,
        busy_target_ms=20.0,
        observer=NullObserver(),
        clock=clock,
    )


def batches(worker: EncodeWorker) -> list[list[int]]:
    assert isinstance(worker.encoder, FakeEncoder)
    return worker.encoder.batches


def drain(worker: EncodeWorker, *, beside_decoder: bool = False) -> None:
    while worker.turn(beside_decoder=beside_decoder):
        pass
    assert not worker.busy
    assert worker._waiting_tokens == 0


def inputs(*lengths: int) -> list[list[int]]:
    return [[at + 1] * length for at, length in enumerate(lengths)]


def expected(given: list[list[int]]) -> FloatArray:
    return FakeEncoder().run(given)


@given(
    st.lists(st.lists(st.integers(1, 64), min_size=1, max_size=30), min_size=1, max_size=8),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_rows_come_back_in_the_order_of_the_inputs(
    requests: list[list[int]], beside_decoder: bool
) -> None:
    worker = make()
    futures = []
    for lengths in requests:
        futures.append((worker.submit(inputs(*lengths)), inputs(*lengths)))
        worker.turn(beside_decoder=beside_decoder)
    drain(worker, beside_decoder=beside_decoder)
    for future, given_inputs in futures:
        assert np.array_equal(future.result(timeout=0), expected(given_inputs))
    assert sum(map(len, batches(worker))) == sum(map(len, requests))
    for lengths in batches(worker):
        assert len(lengths) <= MAX_ROWS
        assert len(lengths) == 1 or max(lengths) * len(lengths) <= BUDGET


def test_one_long_request_does_not_hold_up_a_short_one() -> None:
    worker = make()
    long = worker.submit(inputs(*[60] * 10))
    short = worker.submit(inputs(3))
    order: list[str] = []
    long.add_done_callback(lambda _: order.append("long"))
    short.add_done_callback(lambda _: order.append("short"))
    drain(worker)
    assert order == ["long", "short"] or order == ["short", "long"]
    # The oldest goes first, and each batch in between is one within the budget.
    assert [3] in batches(worker)
    assert len(batches(worker)) == 11


def test_a_steady_stream_of_short_ones_does_not_starve_a_long_one() -> None:
    worker = make()
    worker.submit(inputs(5))
    long = worker.submit(inputs(60))
    for _ in range(3):
        worker.submit(inputs(*[2] * 20))
        worker.turn(beside_decoder=False)
    assert long.done()


def test_beside_a_decoder_batches_shrink_to_the_target() -> None:
    worker = make()
    worker.submit(inputs(*[8] * 64))
    for _ in range(4):
        worker.turn(beside_decoder=False)
    assert {sum(one) for one in batches(worker)} == {BUDGET}
    worker.submit(inputs(*[1, 2, 3] * 3))  # other sizes, so that the cost's line is known
    drain(worker, beside_decoder=True)
    small = batches(worker)[-20:]
    worker.submit(inputs(*[8] * 64))
    drain(worker, beside_decoder=True)
    for lengths in batches(worker)[-16:]:
        assert 2.0 + sum(lengths) <= 20.0
    assert small


def test_beside_a_decoder_even_the_largest_input_still_runs() -> None:
    worker = make(ms_per_token=100.0)
    future = worker.submit(inputs(64, 64))
    drain(worker, beside_decoder=True)
    assert future.done()
    assert batches(worker) == [[64], [64]]


def test_cancelling_takes_the_rest_out_of_the_queue() -> None:
    worker = make()
    gone = worker.submit(inputs(*[60] * 5))
    stays = worker.submit(inputs(2, 2))
    worker.turn(beside_decoder=False)
    assert gone.cancel()
    drain(worker)
    assert np.array_equal(stays.result(timeout=0), expected(inputs(2, 2)))
    assert batches(worker) == [[60], [2, 2]]
    with pytest.raises(CancelledError):
        gone.result(timeout=0)


def test_a_failed_run_fails_those_in_it_and_no_others() -> None:
    worker = make()
    assert isinstance(worker.encoder, FakeEncoder)
    first, second = worker.submit(inputs(60, 60)), worker.submit(inputs(3))
    worker.encoder.fail_next = "the machine failed"
    drain(worker)
    with pytest.raises(EngineError, match="the machine failed"):
        first.result(timeout=0)
    assert np.array_equal(second.result(timeout=0), expected(inputs(3)))
    assert batches(worker) == [[60], [3]], "what was lost already is not run to its end"


def test_too_much_waiting_is_refused_with_a_time() -> None:
    worker = make(max_waiting=100)
    accepted = [worker.submit(inputs(60))]
    with pytest.raises(CapacityError, match="60 encoder tokens wait") as refused:
        worker.submit(inputs(60))
    assert refused.value.retry_after_s >= 1.0
    accepted.append(worker.submit(inputs(40)))
    drain(worker)
    accepted.append(worker.submit(inputs(*[60] * 4)))  # alone, any request is taken
    drain(worker)
    assert all(isinstance(f, Future) and f.done() for f in accepted)


@pytest.mark.parametrize("length", [0, 65])
def test_an_input_that_would_fail_its_batch_is_refused_at_the_door(length: int) -> None:
    worker = make()
    good = worker.submit(inputs(5))
    with pytest.raises(UsageError, match=f"input 1 has {length} tokens; fake takes 1 to 64"):
        worker.submit(inputs(5, length))
    drain(worker)
    assert good.done()


def test_nothing_in_nothing_out() -> None:
    worker = make()
    assert worker.submit([]).result(timeout=0).shape == (0, 4)
    assert not worker.busy
    assert worker.turn(beside_decoder=False) is False


def test_a_worker_that_was_ended_takes_nothing() -> None:
    worker = make()
    waiting = worker.submit(inputs(*[60] * 3))
    worker.turn(beside_decoder=False)
    worker.abort_all(EngineError("it ended"))
    with pytest.raises(EngineError, match="it ended"):
        waiting.result(timeout=0)
    with pytest.raises(EngineError, match="it ended"):
        worker.submit(inputs(1))
    assert worker.turn(beside_decoder=False) is False


def test_interactive_requests_go_first_and_batch_ones_are_not_starved() -> None:
    worker = make()
    bulk = worker.submit(inputs(*[60] * 200), RequestClass.BATCH)
    worker.turn(beside_decoder=False)
    urgent = [worker.submit(inputs(*[60] * 100)) for _ in range(3)]
    turns = 0
    while not all(future.done() for future in urgent):
        assert worker.turn(beside_decoder=False)
        turns += 1
        assert not bulk.done()
    waiting = worker.waiting(RequestClass.BATCH)
    assert 0 < waiting <= 200 - turns // BATCH_EVERY
    drain(worker)
    assert bulk.done()
