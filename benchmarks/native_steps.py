"""Step times of a decoder bundle through its native graph and through its portable one.

    python -m benchmarks.native_steps BUNDLE [--variant int8] [--threads 2]

Both graphs are in memory at once and take turns, so that a slow minute of a shared machine falls
on both. Each figure is the least of its repeats, in milliseconds: noise only ever adds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from edge_runtime.bundle.manifest import DecoderGraph, Variant
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.core import StepPlan, StepRow
from edge_runtime.engine.cpu import usable_cpus
from edge_runtime.engine.decoder import DecoderSession

CACHED = 100
SLOTS = 16
CHUNK = 512
SHAPES = {f"decode {rows}": [1] * rows for rows in (1, 2, 4, 8, 16)} | {
    f"prompt {tokens}": [tokens] for tokens in (64, 128, 512)
}


def load(bundle: Path, variant: Variant, threads: int) -> dict[str, DecoderSession]:
    assert isinstance(variant.contract, DecoderGraph)
    graphs = {"portable": variant.graph, "native": variant.native_graph}
    return {
        name: DecoderSession(
            bundle / graph,
            variant.contract,
            slots=SLOTS,
            max_len=CACHED + CHUNK,
            max_chunk=CHUNK,
            threads=threads,
            spinning=True,
            native=name == "native",
        )
        for name, graph in graphs.items()
        if graph is not None
    }


def plan(lengths: list[int], vocab: int) -> StepPlan:
    rng = np.random.default_rng(sum(lengths))
    return StepPlan(
        tuple(
            StepRow(slot, [int(token) for token in rng.integers(0, vocab, length)], CACHED, True)
            for slot, length in enumerate(lengths)
        )
    )


def least_ms(sessions: dict[str, DecoderSession], step: StepPlan, rounds: int) -> dict[str, float]:
    best = dict.fromkeys(sessions, float("inf"))
    for _ in range(rounds):
        for name, session in sessions.items():
            for _ in range(3):
                start = time.perf_counter()
                session.step(step)
                best[name] = min(best[name], (time.perf_counter() - start) * 1e3)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="int8")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sessions = load(args.bundle, load_manifest(args.bundle).variant(args.variant), args.threads)
    print("| step | " + " | ".join(f"{name} ms" for name in sessions) + " | tok/s |")
    print("|---|" + "---|" * (len(sessions) + 1))
    for name, lengths in SHAPES.items():
        step = plan(lengths, next(iter(sessions.values())).vocab_size)
        found = least_ms(sessions, step, args.rounds)
        figures = " | ".join(f"{value:.1f}" for value in found.values())
        print(
            f"| {name} | {figures} | {sum(lengths) / min(found.values()) * 1e3:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
