"""Worker process around OpenVINO GenAI's continuous-batching engine (protocol: ``worker.py``)."""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from benchmarks.peers import worker

CACHE_BLOCK_TOKENS = 32  # what the CPU plugin's paged attention uses


class OpenVinoEngine:
    """A loaded IR and the pipeline over it; ``--property`` is a property of the CPU plugin."""

    def __init__(self, args: argparse.Namespace) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = args.batched_tokens
        scheduler.num_kv_blocks = args.kv_tokens // CACHE_BLOCK_TOKENS
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = False
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": args.threads}
        properties |= worker.properties(args.property)
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


def main() -> None:
    options = worker.parser(__doc__ or "", model="folder of the OpenVINO IR")
    options.add_argument("--batched-tokens", type=int, default=256)
    options.add_argument("--kv-tokens", type=int, default=16384)
    args = options.parse_args()
    worker.serve(lambda: OpenVinoEngine(args))


if __name__ == "__main__":
    main()
