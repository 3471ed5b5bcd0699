"""One thread serves every worker in turn, and nobody waits for an engine that ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from edge_runtime.core import FinishReason
from edge_runtime.engine.encode_worker import EncodeWorker
from edge_runtime.engine.fake import FakeEncoder
from edge_runtime.engine.loop import EngineLoop
from edge_runtime.engine.text import Codec
from edge_runtime.errors import CapacityError, EngineError
from edge_runtime.metrics import NullObserver
from tests.support.engine import Bench, letter_tokenizer, load_codec

SOON_S = 10.0
"""Only reached when a test fails."""


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load_codec(letter_tokenizer(), tmp_path_factory.mktemp("codec"))


class Watched(Bench):
    """A bench whose ends can be waited for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ends: dict[str, Future[str]] = {}
        self.worker.deliver = self._deliver

    def _deliver(self, events: object) -> None:
        for name, event in events:  # type: ignore[attr-defined]
            self.events.append((name, event))
            if event.finish_reason is not None:
                self.ends[name].set_result(event.error or str(event.finish_reason))

    def start(self, engine: EngineLoop, name: str, **params: object) -> Future[str]:
        self.ends[name] = Future()
        self.submit(name, [len(name), 2], ignore_eos=True, **params)
        engine.wake()
        return self.ends[name]


def encoder(on_run: Callable[[int], None] = lambda tokens: None) -> EncodeWorker:
    return EncodeWorker(
        model="encoder",
        encoder=FakeEncoder(on_run=on_run),
        batch_tokens=8,
        max_waiting_tokens=10_000,
        busy_target_ms=50.0,
        observer=NullObserver(),
        clock=lambda: 0.0,
    )


def test_requests_from_any_thread_are_answered(codec: Codec) -> None:
    bench, other = Watched(codec, slots=3), encoder()
    with EngineLoop() as engine:
        engine.add(bench.worker)
        engine.add(other)
        ends: list[Future[str]] = []
        rows: list[Future[object]] = []

        def client(index: int) -> None:
            for turn in range(5):
                ends.append(bench.start(engine, f"{index}-{turn}", max_tokens=4))
                rows.append(other.submit([[1, 2, 3]]))  # type: ignore[arg-type]
                engine.wake()

        threads = [threading.Thread(target=client, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON_S)
        assert {end.result(SOON_S) for end in ends} == {"length"}
        assert all(row.result(SOON_S)[0][0] == 3.0 for row in rows)  # type: ignore[index]
    assert len(ends) == len(rows) == 20


def test_steps_and_batches_alternate(codec: Codec) -> None:
    """Neither kind waits for the other's queue to be empty."""
    order: list[str] = []
    bench = Watched(codec, slots=1)
    bench.decoder.on_step = lambda tokens: order.append("step")
    other = encoder(lambda tokens: order.append("batch"))
    engine = EngineLoop()
    engine.add(bench.worker)
    engine.add(other)
    bench.start(engine, "x", max_tokens=20)
    other.submit([[1] * 8] * 20)
    for _ in range(10):
        engine._turn()
    assert order == ["step", "batch"] * 10


def test_leaving_ends_everything(codec: Codec) -> None:
    bench, other = Watched(codec, slots=1, max_len=100_000), encoder()
    running = threading.Event()
    bench.decoder.on_step = lambda tokens: running.set()
    with EngineLoop() as engine:
        engine.add(bench.worker)
        end = bench.start(engine, "endless", max_tokens=90_000)
        waits = bench.start(engine, "waits", max_tokens=1)
        assert running.wait(SOON_S)
    assert "stopping" in end.result(0)
    assert "stopping" in waits.result(0)
    engine.add(other)  # a model whose loading ended too late
    with pytest.raises(CapacityError, match="stopping") as refused:
        other.submit([[1]])
    assert refused.value.status == 503
    with pytest.raises(CapacityError):
        bench.submit("late", [1])


def test_a_failed_run_is_the_requests_affair_and_the_engine_goes_on(codec: Codec) -> None:
    bench = Watched(codec, slots=1)
    with EngineLoop() as engine:
        engine.on_crash = lambda error: pytest.fail(f"crashed: {error}")
        bench.decoder.fail_next = "one bad step"
        engine.add(bench.worker)
        assert bench.start(engine, "unlucky").result(SOON_S) == "one bad step"
        assert bench.start(engine, "lucky").result(SOON_S) == "length"


def test_a_bug_ends_every_request_and_is_reported_first(codec: Codec) -> None:
    bench, other = Watched(codec, slots=1), encoder()
    crashed: list[tuple[BaseException, bool]] = []

    def bug(tokens: int) -> None:
        raise RuntimeError("a bug")

    bench.decoder.on_step = bug
    with EngineLoop() as engine:
        rows = other.submit([[1]] * 30)
        end = bench.start(engine, "x")
        engine.on_crash = lambda error: crashed.append((error, end.done()))
        engine.add(bench.worker)
        engine.add(other)
        assert "the engine failed" in end.result(SOON_S)
        with pytest.raises(EngineError, match="the engine failed"):
            rows.result(SOON_S)
    ((error, ended_before),) = crashed
    assert str(error) == "a bug"
    assert not ended_before, "who asks again at once must find the reason"
    with pytest.raises(EngineError, match="the engine failed"):
        bench.submit("late", [1])


def test_a_removed_worker_ends_what_it_had(codec: Codec) -> None:
    bench, stays = Watched(codec, slots=1, max_len=100_000), Watched(codec, slots=1)
    with EngineLoop() as engine:
        engine.add(bench.worker)
        engine.add(stays.worker)
        end = bench.start(engine, "x", max_tokens=90_000)
        engine.remove(bench.worker)
        assert "being replaced" in end.result(SOON_S)
        assert stays.start(engine, "y").result(SOON_S) == str(FinishReason.LENGTH)
