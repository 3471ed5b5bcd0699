"""tokens/s of the daemon through HTTP beside peer engines, on one machine in interleaved rounds.

    python -m benchmarks.http_decode --model qwen-bench --url http://127.0.0.1:8080 \
        --peer openvino=build/peers/openvino-int8,DYNAMIC_QUANTIZATION_GROUP_SIZE=128 \
        --peer llama.cpp=build/peers/q8_0.gguf --json out.json --markdown out.md

Every round runs every load on every contestant, one after the other; the one that does not run
sleeps. Who goes first changes from round to round. See benchmarks/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.http_round import run_round, wait_until_ready
from benchmarks.machine import descendants, describe_machine, read_cpu
from benchmarks.peers.client import PeerProcess
from benchmarks.rounds import (
    Load,
    Round,
    Stream,
    markdown,
    order_of,
    random_prompts,
    summarise,
)

OURS = "edge-runtime"
WARMUP_SEED = 1_000_000
READY_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 30.0
OPENVINO_WORKER = "benchmarks.peers.openvino_engine"
LLAMACPP_WORKER = "benchmarks.peers.llamacpp_engine"

Contestant = Callable[[list[list[int]], int], tuple[float, list[Stream]]]


@contextlib.contextmanager
def started_daemon(command: str, url: str) -> Iterator[int]:
    """Run ``command`` until the block ends, entered once ``url`` reports ready; yields its pid."""
    process = subprocess.Popen(shlex.split(command), stdout=subprocess.DEVNULL)
    try:
        asyncio.run(wait_until_ready(url, READY_TIMEOUT_S))
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def http_contestant(url: str, model: str) -> Contestant:
    def play(prompts: list[list[int]], new_tokens: int) -> tuple[float, list[Stream]]:
        return asyncio.run(run_round(url, model, prompts, new_tokens))

    return play


def peer_contestant(peer: PeerProcess) -> Contestant:
    def play(prompts: list[list[int]], new_tokens: int) -> tuple[float, list[Stream]]:
        answer = peer.ask(op="round", prompts=prompts, new_tokens=new_tokens)
        return answer["wall_s"], [Stream(**stream) for stream in answer["streams"]]

    return play


def play_rounds(
    contestants: dict[str, Contestant],
    loads: list[Load],
    *,
    rounds: int,
    vocab: int,
    pids: list[int],
    report: Callable[[Round], None],
) -> list[Round]:
    """Warm every contestant up with every load, then measure ``rounds`` interleaved rounds."""
    cores = len(os.sched_getaffinity(0))
    for at, load in enumerate(loads):
        short = Load(load.concurrency, load.prompt_tokens, min(load.new_tokens, 4))
        for play in contestants.values():
            play(random_prompts(short, vocab, (WARMUP_SEED, at)), short.new_tokens)
    played = []
    for index in range(rounds):
        for at, load in enumerate(loads):
            prompts = random_prompts(load, vocab, (index, at))
            for name in order_of(list(contestants), index):
                before = read_cpu(descendants(pids))
                wall_s, streams = contestants[name](prompts, load.new_tokens)
                after = read_cpu(descendants(pids))
                entry = Round(
                    contestant=name,
                    concurrency=load.concurrency,
                    prompt_tokens=load.prompt_tokens,
                    new_tokens=load.new_tokens,
                    wall_s=wall_s,
                    streams=tuple(streams),
                    foreign_share=round(before.foreign_share(after, cores), 3),
                )
                played.append(entry)
                report(entry)
    return played


@dataclass(frozen=True)
class PeerSpec:
    """``NAME=MODEL[,KEY=VALUE...]``: a peer, its model and the engine's properties it is given.

    The model tells the engine: a ``.gguf`` file is for llama.cpp, a folder for OpenVINO.
    """

    name: str
    model: str
    properties: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> PeerSpec:
        name, equals, rest = text.partition("=")
        model, *properties = rest.split(",")
        if not (name and equals and model) or any("=" not in item for item in properties):
            raise typer.BadParameter(f"{text!r} is not NAME=MODEL[,KEY=VALUE...]")
        return cls(name, model, tuple(properties))

    def command(self, python: Path, threads: int) -> list[str]:
        worker = LLAMACPP_WORKER if self.model.endswith(".gguf") else OPENVINO_WORKER
        command = [str(python), "-m", worker, "--model", self.model, "--threads", str(threads)]
        for item in self.properties:
            command += ["--property", item]
        return command


def benchmark(  # noqa: PLR0917 - typer reads the command's options from the signature
    model: Annotated[str, typer.Option(help="the model's name on the daemon")],
    url: Annotated[str, typer.Option(help="where the daemon listens")] = "http://127.0.0.1:8080",
    daemon: Annotated[str, typer.Option(help="command line that starts it; else it runs")] = "",
    peer: Annotated[
        list[str] | None,
        typer.Option(help="NAME=MODEL[,KEY=VALUE...]: folder of an IR, or a .gguf; repeatable"),
    ] = None,
    peer_python: Annotated[Path, typer.Option(help="the peers' interpreter")] = Path(
        ".venv-peers/bin/python"
    ),
    concurrency: Annotated[str, typer.Option(help="streams at once, comma-separated")] = "1,4,8,16",
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 32,
    new_tokens: Annotated[int, typer.Option(min=2)] = 64,
    prefill_tokens: Annotated[int, typer.Option(min=1)] = 512,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    vocab: Annotated[int, typer.Option(help="token ids are drawn below this")] = 151_936,
    threads: Annotated[int, typer.Option(help="a peer's threads; 0: all usable cores")] = 0,
    json_out: Annotated[Path | None, typer.Option("--json")] = None,
    markdown_out: Annotated[Path | None, typer.Option("--markdown")] = None,
) -> None:
    """Measure the daemon, and peers beside it, and print the table."""
    loads = [Load(int(n), prompt_tokens, new_tokens) for n in concurrency.split(",")]
    loads.append(Load(1, prefill_tokens, 1))
    threads = threads or len(os.sched_getaffinity(0))
    about: dict[str, Any] = {
        "load": f"prompts of {prompt_tokens} random tokens, {new_tokens} new tokens each, greedy; "
        f"all streams start at once; {rounds} interleaved rounds, medians (lowest-highest), "
        "ratios paired within a round",
        OURS: f"through HTTP at {url}, model {model}" + (f", started by `{daemon}`" * bool(daemon)),
    }
    with contextlib.ExitStack() as stack:
        pids = [os.getpid()]
        if daemon:
            pids.append(stack.enter_context(started_daemon(daemon, url)))
        contestants = {OURS: http_contestant(url, model)}
        for spec in [PeerSpec.parse(text) for text in peer or []]:
            process = stack.enter_context(PeerProcess(spec.command(peer_python, threads)))
            pids.append(process.pid)
            contestants[spec.name] = peer_contestant(process)
            about[spec.name] = process.ask(op="info")
        played = play_rounds(
            contestants, loads, rounds=rounds, vocab=vocab, pids=pids, report=_print_round
        )
    machine = describe_machine()
    table = markdown(summarise(loads, played), list(contestants), machine, about)
    typer.echo("\n" + table)
    if markdown_out is not None:
        markdown_out.write_text(table)
    if json_out is not None:
        document = {
            "machine": machine,
            "about": about,
            "rounds": [entry.as_json() for entry in played],
        }
        json_out.write_text(json.dumps(document, indent=1) + "\n")


def _print_round(entry: Round) -> None:
    kind = "prefill" if entry.is_prefill else f"x{entry.concurrency}"
    typer.echo(
        f"{entry.contestant:>14} {kind:>8}: {entry.throughput:8.1f} tokens/s, "
        f"foreign CPU {entry.foreign_share:.0%}"
    )


if __name__ == "__main__":
    typer.run(benchmark)
