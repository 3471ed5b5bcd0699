"""Real models behind the HTTP routes: the same answer alone and in company, and true ends."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edge_runtime.config import Settings
from edge_runtime.core import (
    DecoderModel,
    FloatArray,
    GenerateRequest,
    SamplingParams,
    StepPlan,
)
from edge_runtime.engine.decode_worker import DecodeWorker
from edge_runtime.errors import CapacityError, EngineError, UsageError
from edge_runtime.host import Host, open_host
from edge_runtime.metrics import Metrics
from edge_runtime.server.app import create_app
from edge_runtime.server.serve import listening
from tests.support.served import (
    CONTEXT,
    build_decoder,
    build_encoder,
    change_manifest,
    install,
    make_settings,
)

SOON_S = 30.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("host")
    made = make_settings(root / "store")
    install(made, [build_decoder(root), build_encoder(root)])
    return made


@dataclass
class Daemon:
    host: Host
    client: aiohttp.ClientSession
    metrics: Metrics

    async def post(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        async with self.client.post(path, json=body) as response:
            return response.status, await response.json()

    async def complete(self, prompt: str, **body: Any) -> dict[str, Any]:
        status, answer = await self.post("/v1/completions", model="tiny", prompt=prompt, **body)
        assert status == 200, answer
        return answer

    def worker(self) -> DecodeWorker:
        worker = self.host._models["tiny"].worker
        assert isinstance(worker, DecodeWorker)
        return worker


async def loaded() -> None:
    """Wait until the host's background task is through."""
    for task in asyncio.all_tasks():
        if task.get_name() == "load-models":
            await task


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Daemon]:
    metrics = Metrics()
    async with open_host(settings, metrics) as host:
        await loaded()
        app = create_app(host, settings, metrics)
        async with listening(app, settings) as url, aiohttp.ClientSession(url) as client:
            yield Daemon(host, client, metrics)


class Stepping:
    """A decoder with another `step`."""

    def __init__(self, decoder: DecoderModel, step: Callable[[StepPlan], FloatArray]) -> None:
        self._decoder = decoder
        self.step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


def replace_step(worker: DecodeWorker, step: Callable[[StepPlan], FloatArray]) -> None:
    worker.decoder = Stepping(worker.decoder, step)


def watch_ends(daemon: Daemon) -> asyncio.Queue[str]:
    """Why sequences end, from now on, as the engine tells it."""
    ends: asyncio.Queue[str] = asyncio.Queue()
    loop, observe = asyncio.get_running_loop(), daemon.metrics.observe_sequence

    def note(model: str, **more: Any) -> None:
        observe(model, **more)
        loop.call_soon_threadsafe(ends.put_nowait, str(more["finish_reason"]))

    daemon.metrics.observe_sequence = note  # type: ignore[method-assign]
    return ends


@pytest.fixture
async def daemon(settings: Settings) -> AsyncIterator[Daemon]:
    async with running(settings) as made:
        assert made.host.ready, made.host.not_ready_reason
        yield made


async def test_health_tells_when_the_models_are_there(settings: Settings) -> None:
    metrics = Metrics()
    async with open_host(settings, metrics) as host:
        app = create_app(host, settings, metrics)
        assert not host.ready
        with pytest.raises(CapacityError, match="cannot answer yet"):
            host.info("tiny")
        async with listening(app, settings) as url, aiohttp.ClientSession(url) as client:
            await loaded()
            async with client.get("/health") as response:
                assert response.status == 200
        assert {info.name for info in host.models()} == {"tiny", "tiny-encoder"}
        with pytest.raises(UsageError, match="no active model is called 'other'"):
            host.info("other")


async def test_a_chat_streams_what_it_would_answer_whole(daemon: Daemon) -> None:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0,
        "max_tokens": 20,
        "ignore_eos": True,
    }
    status, whole = await daemon.post("/v1/chat/completions", **body)
    assert status == 200, whole
    text, reasons, usage = "", [], None
    more = {"stream": True, "stream_options": {"include_usage": True}}
    async with daemon.client.post("/v1/chat/completions", json={**body, **more}) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                usage = event["usage"] or usage
                for choice in event["choices"]:
                    text += choice["delta"].get("content", "")
                    reasons.append(choice["finish_reason"])
    assert text == whole["choices"][0]["message"]["content"]
    assert [reason for reason in reasons if reason] == ["length"]
    assert usage is not None
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"] == 20


async def test_a_hundred_answers_are_the_same_alone_and_in_company(daemon: Daemon) -> None:
    rng = random.Random(3)
    shared = "a beginning that many of the prompts share, as chats do. "
    jobs = []
    for index in range(100):
        prompt = (shared if index % 3 else "") + "".join(
            rng.choice("abcdefgh ") for _ in range(rng.randint(1, 40))
        )
        body: dict[str, Any] = {"max_tokens": rng.randint(1, 16), "ignore_eos": True}
        body |= {"temperature": 0} if index % 2 else {"temperature": 1.0, "seed": index}
        jobs.append((prompt, body))
    alone = [(await daemon.complete(p, **b))["choices"] for p, b in jobs]
    order = rng.sample(range(100), 100)
    async with asyncio.TaskGroup() as group:
        tasks = {at: group.create_task(daemon.complete(jobs[at][0], **jobs[at][1])) for at in order}
    different = [at for at in order if tasks[at].result()["choices"] != alone[at]]
    # Sums may differ in their last bit on some processors, and a near-tie then falls otherwise.
    assert len(different) <= 1, different
    daemon.worker().scheduler.check_integrity()
    assert not daemon.worker().busy


async def test_n_answers_with_a_seed_are_n_and_repeat(daemon: Daemon) -> None:
    body = {"n": 3, "seed": 5, "temperature": 1.5, "max_tokens": 8, "ignore_eos": True}
    first = await daemon.complete("tell me", **body)
    again = await daemon.complete("tell me", **body)
    texts = [choice["text"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice["text"] for choice in again["choices"]]
    assert first["usage"]["completion_tokens"] == 24


async def test_many_answers_to_one_prompt_wait_for_slots(daemon: Daemon) -> None:
    body = {"temperature": 1.5, "max_tokens": 4, "ignore_eos": True}
    answer = await daemon.complete("tell me", n=40, **body)
    assert [choice["index"] for choice in answer["choices"]] == list(range(40))
    assert answer["usage"]["completion_tokens"] == 160
    status, refused = await daemon.post(
        "/v1/completions", model="tiny", prompt="tell me", n=100, **body
    )
    assert (status, refused["error"]["param"]) == (400, "n")


async def test_a_client_that_leaves_frees_its_slot_within_a_step(daemon: Daemon) -> None:
    worker = daemon.worker()
    step, steps = worker.decoder.step, 0

    def count(plan: StepPlan) -> FloatArray:
        nonlocal steps
        steps += 1
        return step(plan)

    replace_step(worker, count)
    ends = watch_ends(daemon)
    params = SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True)
    events = daemon.host.generate(GenerateRequest("x", "tiny", (1, 2, 3), params))
    await anext(events)
    await events.aclose()
    before = steps
    async with asyncio.timeout(SOON_S):
        assert await ends.get() == "cancelled"
    assert steps - before <= 1  # the one that ran when the cancel came
    assert not worker.busy
    assert daemon.host._streams == {}


async def test_a_dropped_connection_cancels_the_sequence(daemon: Daemon) -> None:
    worker = daemon.worker()
    step, loop = worker.decoder.step, asyncio.get_running_loop()
    started, gate = asyncio.Event(), threading.Event()

    def held(plan: StepPlan) -> FloatArray:
        loop.call_soon_threadsafe(started.set)
        assert gate.wait(SOON_S)
        return step(plan)

    replace_step(worker, held)
    ends = watch_ends(daemon)
    client = asyncio.create_task(daemon.complete("x", max_tokens=100, ignore_eos=True))
    await started.wait()
    client.cancel()
    async with asyncio.timeout(SOON_S):
        while not worker._cancelled:
            # Another request's round trip lets the server notice.
            async with daemon.client.get("/health"):
                pass
        gate.set()
        assert await ends.get() == "cancelled"
    with pytest.raises(asyncio.CancelledError):
        await client


async def test_two_requests_with_one_id_are_two_requests(daemon: Daemon) -> None:
    body = {"model": "tiny", "prompt": "abc", "max_tokens": 30, "temperature": 0}

    async def ask() -> dict[str, Any]:
        head = {"x-request-id": "the-same"}
        async with daemon.client.post("/v1/completions", json=body, headers=head) as response:
            assert response.status == 200
            answer: dict[str, Any] = await response.json()
            return answer

    async with asyncio.timeout(SOON_S):
        answers = await asyncio.gather(*(ask() for _ in range(4)))
    assert len({answer["choices"][0]["text"] for answer in answers}) == 1


async def test_a_prompt_past_the_context_is_a_400_with_both_numbers(daemon: Daemon) -> None:
    body = {"model": "tiny", "prompt": [5] * (CONTEXT + 7), "max_tokens": 3}
    status, answer = await daemon.post("/v1/completions", **body)
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert str(CONTEXT) in answer["error"]["message"]
    assert str(CONTEXT + 10) in answer["error"]["message"]


async def test_the_whole_context_can_be_used(daemon: Daemon) -> None:
    answer = await daemon.complete([5] * (CONTEXT - 1), ignore_eos=True)  # type: ignore[arg-type]
    assert answer["usage"]["completion_tokens"] == 1
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_embeddings_run_beside_answers(daemon: Daemon) -> None:
    texts = [f"text number {index}" for index in range(30)]
    _, quiet = await daemon.post("/v1/embeddings", model="tiny-encoder", input=texts)
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(daemon.complete("abc", max_tokens=60, ignore_eos=True))
        busy = group.create_task(daemon.post("/v1/embeddings", model="tiny-encoder", input=texts))
    assert answer.result()["usage"]["completion_tokens"] == 60
    for one, other in zip(quiet["data"], busy.result()[1]["data"], strict=True):
        assert other["embedding"] == pytest.approx(one["embedding"], abs=1e-5)


async def test_a_model_of_the_other_kind_is_refused(daemon: Daemon) -> None:
    with pytest.raises(UsageError, match="does not generate"):
        await anext(
            daemon.host.generate(GenerateRequest("x", "tiny-encoder", (1,), SamplingParams(1)))
        )
    with pytest.raises(UsageError, match="no embeddings"):
        await daemon.host.encode("tiny", [[1]])


async def test_an_engine_that_failed_is_not_ready_and_ends_its_requests(daemon: Daemon) -> None:
    def bug(plan: StepPlan) -> FloatArray:
        raise RuntimeError("a bug")

    replace_step(daemon.worker(), bug)
    async with asyncio.timeout(SOON_S):
        status, answer = await daemon.post("/v1/completions", model="tiny", prompt="abc")
        assert status == 500, answer
        async with daemon.client.get("/health") as response:
            assert response.status == 503
            assert "a bug" in await response.text()
        status, _ = await daemon.post("/v1/completions", model="tiny", prompt="abc")
        assert status >= 500
    with pytest.raises(EngineError, match="restart the daemon"):
        daemon.host.info("tiny")


async def test_one_bad_bundle_is_named_and_the_others_answer(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "store")
    good, bad = build_encoder(tmp_path), build_decoder(tmp_path)
    install(settings, [good, bad])
    golden = Settings.model_validate(
        {**settings.model_dump(), "models": {"options": {"tiny": {"variant": "int3"}}}}
    )
    async with running(golden) as daemon:
        assert "has no variant 'int3'" in daemon.host.not_ready_reason
        async with daemon.client.get("/health") as response:
            assert response.status == 503
            assert "int3" in await response.text()
        status, _ = await daemon.post("/v1/embeddings", model="tiny-encoder", input="hello")
        assert status == 200
        status, _ = await daemon.post("/v1/completions", model="tiny", prompt="hello")
        assert status == 503


async def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "store")) as daemon:
        assert "edge-runtime install" in daemon.host.not_ready_reason


def test_a_bundle_that_answers_wrong_is_not_activated(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "store")
    bundle = build_decoder(tmp_path)
    change_manifest(bundle, golden=[{"input": "hello", "answer": "something else"}])
    with pytest.raises(AssertionError, match="golden input 'hello'"):
        install(settings, [bundle])
