"""Tiny decoder checkpoints made without torch, and a plain runner of packed decoder graphs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from export_tools.decoder.config import parse_config
from export_tools.decoder.tensors import expected_tensors
from export_tools.synth import write_tokenizer

TINY_VOCAB = 320
TINY_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 112,
    "vocab_size": TINY_VOCAB,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}

Tensors = dict[str, npt.NDArray[Any]]


def tiny_config(**changes: Any) -> dict[str, Any]:
    """The tiny Llama's configuration with changes."""
    return {**TINY_CONFIG, **changes}


def random_tensors(config: Mapping[str, Any], seed: int = 0, std: float = 0.15) -> Tensors:
    """Float32 weights of every tensor the configuration needs."""
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name, shape in expected_tensors(parse_config(config)).items():
        values = rng.standard_normal(shape, np.float32) * np.float32(std)
        tensors[name] = values + 1 if "norm" in name else values
    return tensors


def write_safetensors(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays; uint16 stands for BF16 bits."""
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8"}
    header: dict[str, Any] = {}
    offset = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for array in tensors.values():
            file.write(array.tobytes())


def write_checkpoint(
    directory: Path, tensors: Mapping[str, npt.NDArray[Any]] | None = None, **changes: Any
) -> Path:
    """Write a whole tiny checkpoint with a working tokenizer. Returns the directory."""
    config = tiny_config(**changes)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    weights = random_tensors(config) if tensors is None else tensors
    write_safetensors(directory / "model.safetensors", weights)
    write_tokenizer(directory, int(config["vocab_size"]))
    return directory


class GraphRunner:
    """Runs a packed decoder graph with past and present bound to the same buffers.

    The buffers start full of nonsense: what a graph reads beyond a row's length shows.
    """

    def __init__(
        self, graph: Path, slots: int, capacity: int, *, native: Path | None = None
    ) -> None:
        """`native`: the library of operators that a native graph needs."""
        options = ort.SessionOptions()
        if native is not None:
            options.register_custom_ops_library(str(native))
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.capacity = capacity
        self.kv = {}
        for item in self.session.get_inputs():
            if item.name.startswith("past_key_values."):
                _, heads, _, dim = item.shape
                stale = np.full((slots, heads, capacity, dim), 7.0, np.float32)
                self.kv[item.name] = ort.OrtValue.ortvalue_from_numpy(stale)

    def step(
        self,
        rows: Sequence[Sequence[int]],
        cached: Sequence[int],
        logits_index: Sequence[int] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Run one step: `rows[b]` are slot b's new tokens (none: idle), `cached[b]` its length.

        Returns the logits of `logits_index`, by default of every packed token.
        """
        lengths = [len(row) for row in rows]
        total, width = sum(lengths), max(2, *lengths)  # as the engine packs: S = 1 sums otherwise
        pad = np.zeros((len(rows), width), np.int64)
        unpad: list[int] = []
        for slot, length in enumerate(lengths):
            pad[slot, :length] = np.arange(len(unpad), len(unpad) + length)
            unpad += range(slot * width, slot * width + length)
        seen = [max(past + new - 1, 0) for past, new in zip(cached, lengths, strict=True)]
        wanted = range(total) if logits_index is None else logits_index
        binding = self.session.io_binding()
        for name, value in (
            ("input_ids", np.array([token for row in rows for token in row], np.int64)),
            ("pad_index", pad),
            ("unpad_index", np.array(unpad, np.int64)),
            ("query_seqlens", np.array(lengths, np.int32)),
            ("seqlens_k", np.array(seen, np.int32)),
            ("total_len", np.array([self.capacity], np.int32)),
            ("logits_index", np.array(wanted, np.int64)),
        ):
            binding.bind_cpu_input(name, value)
        binding.bind_output("logits", "cpu")
        for name, buffer in self.kv.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
        self.session.run_with_iobinding(binding)
        logits: npt.NDArray[np.float32] = binding.get_outputs()[0].numpy()
        return logits.copy()


def run_chunks(
    runner: GraphRunner, sequences: Sequence[Sequence[int]], chunks: Sequence[Sequence[int]]
) -> list[npt.NDArray[np.float32]]:
    """Feed each slot its sequence in the given chunk lengths (0: idle); logits of every token."""
    cached = [0] * len(sequences)
    found: list[list[npt.NDArray[np.float32]]] = [[] for _ in sequences]
    for lengths in chunks:
        rows = [
            sequence[start : start + length]
            for sequence, start, length in zip(sequences, cached, lengths, strict=True)
        ]
        logits, start = runner.step(rows, cached), 0
        for slot, length in enumerate(lengths):
            found[slot].append(logits[start : start + length])
            start, cached[slot] = start + length, cached[slot] + length
    return [np.concatenate(parts) for parts in found]
