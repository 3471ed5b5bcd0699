"""Worker process around OpenVINO GenAI's continuous-batching engine.

Runs inside the peers' own virtual environment and imports nothing of edge-runtime. It reads one
JSON object a line from stdin and answers each with one JSON object on stdout, so that a driver can
alternate rounds between this engine and ours. Between two requests it blocks on stdin and uses no
CPU.

Requests::

    {"op": "info"}
    {"op": "round", "prompts": [[17, 4, ...], ...], "new_tokens": 64}
    {"op": "quit"}

A round starts all its prompts at once, greedy, ignoring the end token. Its answer is
``{"wall_s", "streams": [{"first_s", "last_s", "tokens"}, ...]}`` with times in seconds since the
first prompt was handed over. Prompts are token ids handed over in process: the peer pays for
neither HTTP nor tokenisation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

CACHE_BLOCK_TOKENS = 32  # what the CPU plugin's paged attention uses


class Engine:
    """One loaded model with the settings it was given; rounds run one at a time."""

    def __init__(self, args: argparse.Namespace) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = args.batched_tokens
        scheduler.num_kv_blocks = args.kv_tokens // CACHE_BLOCK_TOKENS
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = False
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": args.threads}
        for item in args.property:
            key, _, value = item.partition("=")
            properties[key] = value
        self.pipe = genai.ContinuousBatchingPipeline(
            args.model, scheduler, "CPU", properties, {}, {}
        )
        self.settings = {
            "max_num_batched_tokens": args.batched_tokens,
            "kv_tokens": args.kv_tokens,
            "threads": args.threads,
            "properties": properties,
        }
        self._next_id = 0

    def round(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        """Start one greedy stream a prompt, all at once, and step until all have finished."""
        config = genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False

        start = time.perf_counter()
        handles = []
        for prompt in prompts:
            tokens = ov.Tensor(np.asarray([prompt], dtype=np.int64))
            handles.append(self.pipe.add_request(self._next_id, tokens, config))
            self._next_id += 1
        streams = [{"first_s": 0.0, "last_s": 0.0, "tokens": 0} for _ in handles]
        while self.pipe.has_non_finished_requests():
            self.pipe.step()
            now = time.perf_counter() - start
            for handle, stream in zip(handles, streams, strict=True):
                if handle.can_read():
                    count = sum(len(out.generated_ids) for out in handle.read().values())
                    if not stream["tokens"]:
                        stream["first_s"] = now
                    stream["tokens"] += count
                    stream["last_s"] = now
        return {"wall_s": time.perf_counter() - start, "streams": streams}

    def info(self) -> dict[str, Any]:
        core = ov.Core()
        names = ("openvino", "openvino-genai", "openvino-tokenizers")
        return {
            "engine": "OpenVINO GenAI continuous batching",
            "versions": {name: version(name) for name in names},
            "capabilities": core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
            "defaults": {
                key: str(core.get_property("CPU", key))
                for key in (
                    "INFERENCE_PRECISION_HINT",
                    "DYNAMIC_QUANTIZATION_GROUP_SIZE",
                    "KV_CACHE_PRECISION",
                )
            },
            "settings": self.settings,
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        op = request["op"]
        if op == "info":
            return self.info()
        if op == "round":
            return self.round(request["prompts"], request["new_tokens"])
        raise ValueError(f"unknown op {op!r}; use info, round or quit")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the OpenVINO IR")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batched-tokens", type=int, default=256)
    parser.add_argument("--kv-tokens", type=int, default=16384)
    parser.add_argument(
        "--property", action="append", default=[], metavar="KEY=VALUE", help="a plugin property"
    )
    return parser.parse_args()


def main() -> None:
    # The engine's libraries may print to stdout; answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine = Engine(parse_args())
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "quit":
            return
        try:
            reply = engine.answer(request)
        except Exception as error:  # noqa: BLE001 - one bad round must reach the driver, not hang it
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
