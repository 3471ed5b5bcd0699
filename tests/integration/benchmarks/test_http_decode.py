"""The benchmark against a server and a peer that are not real: shapes, counting, failing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.http_decode import (
    OURS,
    PeerSpec,
    http_contestant,
    peer_contestant,
    play_rounds,
)
from benchmarks.http_round import HttpRoundError, run_round, wait_until_ready
from benchmarks.machine import descendants, describe_machine, read_cpu
from benchmarks.peers.client import PeerError, PeerProcess
from benchmarks.rounds import Load, Round, markdown, summarise

FAKE_PEER = """
import json, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "fail":
        print(json.dumps({"error": "out of blocks"}), flush=True)
    elif request["op"] == "die":
        sys.exit(3)
    else:
        n = request["new_tokens"]
        streams = [{"first_s": 0.1, "last_s": 0.2, "tokens": n} for _ in request["prompts"]]
        print(json.dumps({"wall_s": 0.2, "streams": streams}), flush=True)
"""


class StubServer:
    """Answers /v1/completions as an OpenAI-compatible server would, and keeps the bodies."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.at_once = 0
        self.highest = 0
        self.expected_at_once = 1
        self.together = asyncio.Event()
        self.failure: str | None = None
        self.usage = True
        self.edge: dict[str, Any] | None = None

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if self.failure == "status":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        self.at_once += 1
        self.highest = max(self.highest, self.at_once)
        if self.at_once >= self.expected_at_once:
            self.together.set()
        await self.together.wait()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if self.failure == "stream":
            await self._send(response, {"error": {"message": "the model run failed"}})
        for _ in range(body["max_tokens"]):
            await self._send(response, {"choices": [{"index": 0, "text": "x"}], "usage": None})
        if self.usage:
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
            await self._send(response, {"choices": [], "usage": usage, "edge": self.edge})
        await response.write(b"data: [DONE]\n\n")
        self.at_once -= 1
        return response

    async def _send(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@pytest.fixture
async def stub() -> AsyncIterator[tuple[StubServer, str]]:
    server = StubServer()
    app = web.Application()
    app.router.add_get("/health", server.health)
    app.router.add_post("/v1/completions", server.completions)
    async with TestServer(app) as running:
        yield server, str(running.make_url("")).rstrip("/")


@pytest.fixture
def peer_command(tmp_path: Path) -> list[str]:
    worker = tmp_path / "worker.py"
    worker.write_text(FAKE_PEER)
    return [sys.executable, str(worker)]


Stub = tuple[StubServer, str]


async def test_a_round_sends_all_prompts_at_once_and_counts_usage(stub: Stub) -> None:
    server, url = stub
    server.expected_at_once = 4
    wall_s, streams = await run_round(url, "m", [[11, 12, 13]] * 4, 6)
    assert server.highest == 4
    assert [stream.tokens for stream in streams] == [6] * 4
    assert all(0 < stream.first_s <= stream.last_s <= wall_s for stream in streams)
    assert server.bodies[0] == {
        "model": "m",
        "prompt": [11, 12, 13],
        "max_tokens": 6,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_the_servers_own_first_token_time_is_taken_when_text_lagged(stub: Stub) -> None:
    server, url = stub
    server.edge = {"timings": {"queue_ms": 0.0, "prefill_ms": 0.0}}
    _, (stream,) = await run_round(url, "m", [[11]], 3)
    server.edge = {"timings": {"queue_ms": 1e6, "prefill_ms": 1e6}}
    _, (later,) = await run_round(url, "m", [[11]], 3)
    assert stream.first_s < stream.last_s
    assert later.first_s <= later.last_s


@pytest.mark.parametrize(
    ("failure", "usage", "says"),
    [
        ("status", True, "404.*no such model"),
        ("stream", True, "the model run failed"),
        (None, False, "without choices or usage"),
    ],
)
async def test_a_server_that_fails_is_no_figure(
    stub: Stub, failure: str | None, usage: bool, says: str
) -> None:
    server, url = stub
    server.failure, server.usage = failure, usage
    with pytest.raises(HttpRoundError, match=says):
        await run_round(url, "m", [[11]], 3)


async def test_a_server_that_never_gets_ready_is_given_up(
    unused_tcp_port_factory: Callable[[], int], stub: Stub
) -> None:
    _, url = stub
    await wait_until_ready(url, 5.0)
    with pytest.raises(HttpRoundError, match="not ready within"):
        await wait_until_ready(f"http://127.0.0.1:{unused_tcp_port_factory()}", 0.05)


async def _in_thread(function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function)


async def test_every_peer_has_its_turn_and_its_ratio(stub: Stub, peer_command: list[str]) -> None:
    _, url = stub
    loads = [Load(1, 8, 4)]

    def play() -> list[Round]:
        with PeerProcess(peer_command) as one, PeerProcess(peer_command) as other:
            contestants = {
                OURS: http_contestant(url, "m"),
                "one": peer_contestant(one),
                "other": peer_contestant(other),
            }
            pids = [one.pid, other.pid]
            return play_rounds(
                contestants, loads, rounds=3, vocab=100, pids=pids, report=lambda _: None
            )

    played: list[Round] = await _in_thread(play)
    order = [entry.contestant for entry in played]
    assert order == [OURS, "one", "other", "one", "other", OURS, "other", OURS, "one"]
    table = markdown(summarise(loads, played), [OURS, "one", "other"], describe_machine(), {})
    assert "| ratio to one | ratio to other |" in table


async def test_rounds_alternate_between_the_daemon_and_a_peer(
    stub: Stub, peer_command: list[str]
) -> None:
    _, url = stub
    loads = [Load(1, 8, 4), Load(1, 16, 1)]
    seen: list[Round] = []

    def play() -> list[Round]:
        with PeerProcess(peer_command) as peer:
            contestants = {OURS: http_contestant(url, "m"), "peer": peer_contestant(peer)}
            return play_rounds(
                contestants, loads, rounds=2, vocab=100, pids=[peer.pid], report=seen.append
            )

    played: list[Round] = await _in_thread(play)
    assert [(entry.contestant, entry.prompt_tokens) for entry in played] == [
        (OURS, 8),
        ("peer", 8),
        (OURS, 16),
        ("peer", 16),
        ("peer", 8),
        (OURS, 8),
        ("peer", 16),
        (OURS, 16),
    ]
    assert seen == played


def test_a_peer_that_fails_or_dies_says_so(peer_command: list[str]) -> None:
    with PeerProcess(peer_command) as peer:
        with pytest.raises(PeerError, match="out of blocks"):
            peer.ask(op="fail")
        assert peer.ask(op="round", prompts=[[1]], new_tokens=2)["streams"][0]["tokens"] == 2
        with pytest.raises(PeerError, match="ended"):
            peer.ask(op="die")


def test_a_peer_is_named_with_its_model_and_properties() -> None:
    spec = PeerSpec.parse("ov=some/folder,KEY=1,OTHER=f32")
    command = spec.command(Path("py"), threads=2)
    assert command == [
        *("py", "-m", "benchmarks.peers.openvino_engine"),
        *("--model", "some/folder", "--threads", "2"),
        *("--property", "KEY=1", "--property", "OTHER=f32"),
    ]
    with pytest.raises(typer.BadParameter):
        PeerSpec.parse("some/folder")


def test_a_gguf_file_goes_to_llama_cpp() -> None:
    spec = PeerSpec.parse("llama.cpp=some/model.gguf,n_ubatch=256")
    assert spec.name == "llama.cpp"
    assert spec.command(Path("py"), threads=2)[1:] == [
        *("-m", "benchmarks.peers.llamacpp_engine"),
        *("--model", "some/model.gguf", "--threads", "2", "--property", "n_ubatch=256"),
    ]


def test_the_machine_is_described_and_processes_below_are_found(peer_command: list[str]) -> None:
    with PeerProcess(peer_command) as peer:
        import os

        assert peer.pid in descendants([os.getpid()])
        assert read_cpu([peer.pid]).busy_s > read_cpu([peer.pid]).group_s
    assert describe_machine()["cores"] == len(os.sched_getaffinity(0))
