"""Models are changed while requests run: none is dropped, none mixes two models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.bundle.activation import Committed, Refused
from edge_runtime.core import FinishReason, GenerateRequest, ModelInfo, TokenEvent
from edge_runtime.engine.decode_worker import DecodeWorker
from edge_runtime.engine.fake import FakeDecoder
from edge_runtime.errors import BundleError, CapacityError, EngineError, UsageError
from tests.support.engine import greedy
from tests.support.swapping import FakeModels, fake_host

SOON_S = 30.0


def request(name: str, digest: str = "", tokens: int = 6) -> GenerateRequest:
    return GenerateRequest(
        name, "tiny", (1, 2, 3), greedy(tokens, ignore_eos=True), bundle_digest=digest
    )


async def answer(host: FakeModels, one: GenerateRequest) -> list[TokenEvent]:
    return [event async for event in host.generate(one)]


def decoder(host: FakeModels, digest: str) -> FakeDecoder:
    worker = host.loaded[digest].worker
    assert isinstance(worker, DecodeWorker)
    assert isinstance(worker.decoder, FakeDecoder)
    return worker.decoder


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not ready():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0)


async def drained(host: FakeModels) -> None:
    async with asyncio.timeout(SOON_S):
        await asyncio.gather(*host.swapper._drains)


async def test_requests_in_progress_end_on_the_model_they_began_with(tmp_path: Path) -> None:
    async with fake_host(tmp_path) as (host, digests):
        host.gates[digests[0]].clear()
        running = [asyncio.create_task(answer(host, request(str(n)))) for n in range(6)]
        await until(lambda: host.in_use.count(host.loaded[digests[0]]) == 6)
        assert isinstance(await host.activate("tiny", digests[1]), Committed)
        assert host.info("tiny").version == "2.0.0"
        assert host.engine._workers == (
            host.loaded[digests[0]].worker,
            host.loaded[digests[1]].worker,
        )
        host.gates[digests[0]].set()
        async with asyncio.timeout(SOON_S):
            after = await answer(host, request("after"))
            answers = await asyncio.gather(*running)
        assert [len(events) for events in (*answers, after)] == [6] * 7
        assert all(events[-1].finish_reason is FinishReason.LENGTH for events in answers)
        assert sum(plan.token_count for plan in decoder(host, digests[1]).plans) == 3 + 5
        await drained(host)
        assert host.engine._workers == (host.loaded[digests[1]].worker,)
        assert host._replaced == {}


async def test_nothing_is_dropped_by_swaps_under_steady_traffic(tmp_path: Path) -> None:
    async with fake_host(tmp_path, grace_s=0.05) as (host, digests):
        versions: set[str] = set()
        going = True

        async def client(number: int) -> int:
            done = 0
            while going:
                info = host.info("tiny")  # as a route does: look up, read, tokenise, ask
                versions.add(info.version)
                await asyncio.sleep(0)
                events = await answer(host, request(f"{number}-{done}", info.bundle_digest))
                assert events[-1].finish_reason is FinishReason.LENGTH
                assert len(events) == 6
                done += 1
            return done

        clients = [asyncio.create_task(client(number)) for number in range(4)]
        async with asyncio.timeout(SOON_S):
            for digest in (*digests[1:], *digests, digests[0]):
                assert isinstance(await host.activate("tiny", digest), Committed)
            assert isinstance(await host.revert("tiny"), Committed)
            going = False
            counts = await asyncio.gather(*clients)
        assert all(counts)
        assert versions == {"1.0.0", "2.0.0", "3.0.0"}
        await drained(host)
        assert len(host.engine._workers) == 1


async def test_a_request_tokenised_for_the_old_model_runs_on_it(tmp_path: Path) -> None:
    async with fake_host(tmp_path, grace_s=60.0) as (host, digests):
        read_before = request("slow reader", digests[0])
        await host.activate("tiny", digests[1])
        assert len(await answer(host, read_before)) == 6
        assert decoder(host, digests[0]).plans
        assert not decoder(host, digests[1]).plans


async def test_one_that_comes_after_the_old_model_left_is_told_to_ask_again(
    tmp_path: Path,
) -> None:
    async with fake_host(tmp_path) as (host, digests):
        await host.activate("tiny", digests[1])
        await drained(host)
        with pytest.raises(CapacityError, match="ask again") as raised:
            await answer(host, request("very slow reader", digests[0]))
        assert raised.value.status == 503


async def test_what_outlasts_the_drain_is_ended_with_an_error(tmp_path: Path) -> None:
    async with fake_host(tmp_path, drain_s=0.01) as (host, digests):
        host.gates[digests[0]].clear()
        endless = asyncio.create_task(answer(host, request("endless")))
        await until(lambda: host.in_use.count(host.loaded[digests[0]]) == 1)
        await host.activate("tiny", digests[1])
        await drained(host)
        host.gates[digests[0]].set()
        async with asyncio.timeout(SOON_S):
            events = await endless
        assert events[-1].finish_reason is FinishReason.ERROR
        assert "being replaced" in (events[-1].error or "")


async def test_a_refused_bundle_changes_nothing(tmp_path: Path) -> None:
    async with fake_host(tmp_path) as (host, digests):
        host.refuse = BundleError("tiny", "golden input 'a' gives 'b'")
        outcome = await host.activate("tiny", digests[1])
        assert isinstance(outcome, Refused)
        assert "golden" in outcome.reason
        assert host.info("tiny").version == "1.0.0"
        assert host.store.active()["tiny"].bundle_digest == digests[0]
        assert len(await answer(host, request("x"))) == 6


async def test_two_models_that_do_not_fit_are_not_tried(tmp_path: Path) -> None:
    async with fake_host(tmp_path) as (host, digests):
        host.swapper.available_bytes = lambda: 10
        with pytest.raises(CapacityError, match="free memory") as raised:
            await host.activate("tiny", digests[1])
        assert raised.value.reason == "memory"
        assert list(host.loaded) == [digests[0]]


async def test_an_unknown_digest_is_refused_in_words(tmp_path: Path) -> None:
    async with fake_host(tmp_path) as (host, _):
        outcome = await host.activate("tiny", "f" * 64)
        assert isinstance(outcome, Refused)
        assert "stage it first" in outcome.reason


async def test_listeners_hear_which_model_a_name_had_and_has(tmp_path: Path) -> None:
    async with fake_host(tmp_path) as (host, digests):
        heard: list[tuple[ModelInfo | None, ModelInfo]] = []
        host.on_swap(lambda old, new: heard.append((old, new)))
        await host.activate("tiny", digests[1])
        await host.revert("tiny")
        assert [(old and old.version, new.version) for old, new in heard] == [
            ("1.0.0", "2.0.0"),
            ("2.0.0", "1.0.0"),
        ]


async def test_encoders_are_swapped_too(tmp_path: Path) -> None:
    async with fake_host(tmp_path, kind="embed") as (host, digests):
        host.gates[digests[0]].clear()
        running = asyncio.create_task(host.encode("tiny", [[1, 2], [3]]))
        await until(lambda: host.in_use.count(host.loaded[digests[0]]) == 1)
        await host.activate("tiny", digests[1])
        host.gates[digests[0]].set()
        async with asyncio.timeout(SOON_S):
            assert (await running)[:, 0].tolist() == [2.0, 1.0]
            assert (await host.encode("tiny", [[5]]))[:, 1].tolist() == [5.0]
        with pytest.raises(UsageError, match="does not generate"):
            await answer(host, request("x"))


async def test_a_failed_engine_swaps_nothing(tmp_path: Path) -> None:
    async with fake_host(tmp_path) as (host, digests):
        host.engine_failed(RuntimeError("a bug"))
        with pytest.raises(EngineError, match="restart the daemon"):
            await host.activate("tiny", digests[1])


async def test_a_name_this_daemon_does_not_serve_is_not_activated(tmp_path: Path) -> None:
    async with fake_host(tmp_path) as (host, digests):
        host.settings.models.serve.append("other")
        with pytest.raises(UsageError, match=r"models\.serve"):
            await host.activate("tiny", digests[1])


async def test_who_cancels_an_activation_waits_for_its_end(tmp_path: Path) -> None:
    async with fake_host(tmp_path) as (host, digests):
        task = asyncio.create_task(host.activate("tiny", digests[1]))
        await until(host.swapper._lock.locked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        serving = host.store.active()["tiny"].bundle_digest
        await asyncio.sleep(0)
        assert host.info("tiny").bundle_digest == serving
