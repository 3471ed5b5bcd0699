"""Random-weight checkpoints of known geometries, with a tokenizer that really works.

They stand in for real checkpoints wherever only shapes matter: tests, benchmarks, drills.
Same geometry, layers and seed give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import UsageError
from export_tools.decoder.config import CONFIG_FILE, parse_config
from export_tools.decoder.tensors import expected_tensors
from export_tools.progress import Progress, SilentProgress
from export_tools.weights import SINGLE_FILE

WEIGHT_STD = 0.02
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_BLOCK_VALUES = 4 * 1024 * 1024

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _geometry(
    architecture: str, sizes: tuple[int, int, int, int, int, int], **more: Any
) -> dict[str, Any]:
    layers, hidden, heads, kv_heads, intermediate, vocab = sizes
    return {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        **more,
    }


GEOMETRIES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": _geometry(
        "Qwen2ForCausalLM",
        (24, 896, 14, 2, 4864, 151936),
        rope_theta=1000000.0,
        rms_norm_eps=1e-6,
        max_position_embeddings=32768,
    ),
    "qwen2.5-1.5b": _geometry(
        "Qwen2ForCausalLM",
        (28, 1536, 12, 2, 8960, 151936),
        rope_theta=1000000.0,
        rms_norm_eps=1e-6,
        max_position_embeddings=32768,
    ),
    "llama-3.2-1b": _geometry(
        "LlamaForCausalLM",
        (16, 2048, 32, 8, 8192, 128256),
        head_dim=64,
        rope_theta=500000.0,
        rope_scaling=_LLAMA3_ROPE,
        rms_norm_eps=1e-5,
        max_position_embeddings=131072,
    ),
    "smollm2-135m": _geometry(
        "LlamaForCausalLM",
        (30, 576, 9, 3, 1536, 49152),
        rope_theta=100000.0,
        rms_norm_eps=1e-5,
        max_position_embeddings=8192,
    ),
}


def synthesize(
    geometry: str,
    out: Path,
    *,
    layers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write a checkpoint directory. Returns it.

    `layers` overrides the depth. Memory: one block of weights. Raises `UsageError` for an
    unknown geometry.
    """
    if geometry not in GEOMETRIES:
        known = ", ".join(GEOMETRIES)
        raise UsageError(f"unknown geometry {geometry!r}; choose one of: {known}", param="geometry")
    config = dict(GEOMETRIES[geometry])
    config["num_hidden_layers"] = layers or config["num_hidden_layers"]
    vocab = int(config["vocab_size"])
    end, end_of_turn = vocab - len(SPECIAL_TOKENS), vocab - 1
    config.update(bos_token_id=end, eos_token_id=end_of_turn)
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / CONFIG_FILE, config)
    _write_json(
        out / "generation_config.json",
        {"eos_token_id": [end_of_turn, end], "do_sample": True, "temperature": 0.7, "top_p": 0.8},
    )
    write_tokenizer(out, vocab)
    _write_weights(out / SINGLE_FILE, config, seed, progress or SilentProgress())
    return out


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False) + "\n", "utf-8")


def _write_weights(path: Path, config: dict[str, Any], seed: int, progress: Progress) -> None:
    shapes = expected_tensors(parse_config(config))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    progress.begin(f"writing {path.name}", offset)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for index, (name, shape) in enumerate(shapes.items()):
            std = _std(name, int(config["num_hidden_layers"]))
            for block in _values(shape, std, np.random.default_rng([seed, index])):
                file.write(block.data)
                progress.advance(name, block.nbytes)


def _std(name: str, layers: int) -> float:
    """Spread of a tensor's values; 0 for norms, whose gain is 1.

    What is added to the residual stream shrinks with depth, so that the sum keeps its size.
    """
    if "norm" in name:
        return 0.0
    closing = name.endswith(("o_proj.weight", "down_proj.weight"))
    return WEIGHT_STD / float(np.sqrt(2 * layers)) if closing else WEIGHT_STD


def _values(
    shape: tuple[int, ...], std: float, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.uint16]]:
    """Blocks of BF16 values as their 16 bits: a uniform draw of 65,536 normal quantiles."""
    quantiles = np.float32(std) * _normal_quantiles()
    if std == 0.0:
        quantiles += np.float32(1.0)
    bits = quantiles.view(np.uint32)
    table = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    left = int(np.prod(shape))
    while left:
        count = min(left, _BLOCK_VALUES)
        yield table[rng.integers(0, table.size, count, np.uint16)]
        left -= count


@cache
def _normal_quantiles() -> npt.NDArray[np.float32]:
    """The middle of each of 65,536 equally likely slices of the standard normal."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse((index + 0.5) / 65536) for index in range(65536)], np.float32)


def write_tokenizer(out: Path, vocab: int) -> None:
    """Write a byte-level BPE of exactly `vocab` tokens and a ChatML template.

    Tokens: 256 bytes, merges of two printable characters, merges of two such pairs of
    lower-case letters, then the special tokens. Every id decodes, every text encodes.
    """
    tokens, merges = _byte_pairs(vocab - len(SPECIAL_TOKENS))
    ids = {token: index for index, token in enumerate(tokens)}
    special = [
        {
            "id": len(tokens) + index,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, content in enumerate(SPECIAL_TOKENS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": ids,
            "merges": merges,
        },
    }
    _write_json(out / "tokenizer.json", document)
    _write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": SPECIAL_TOKENS[2],
            "pad_token": SPECIAL_TOKENS[0],
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": 131072,
        },
    )


def _byte_pairs(count: int) -> tuple[list[str], list[list[str]]]:
    """The first `count` tokens and the merges that make them."""
    alphabet = _byte_alphabet()
    tokens = [alphabet[byte] for byte in range(256)]
    merges: list[list[str]] = []

    def extend(left: list[str], right: list[str]) -> list[str]:
        made: list[str] = []
        for first in left:
            for second in right:
                if len(tokens) >= count:
                    return made
                tokens.append(first + second)
                merges.append([first, second])
                made.append(first + second)
        return made

    letters = [alphabet[byte] for byte in b"etaoinsrhldcumfpgwybvkxjqz"]
    space = alphabet[0x20]
    pairs = extend([space, *letters], letters)
    extend(pairs, pairs[len(letters) :])
    others = [alphabet[byte] for byte in range(256) if alphabet[byte] not in {space, *letters}]
    extend(others, others)
    if len(tokens) < count:
        raise ValueError(f"no more than {len(tokens)} tokens can be made")
    return tokens, merges


def _byte_alphabet() -> dict[int, str]:
    """A printable character for each byte: itself where visible in Latin-1, else from U+0100 on.

    The mapping every byte-level BPE uses (GPT-2).
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    table = {byte: chr(byte) for byte in visible}
    table.update({byte: chr(0x100 + index) for index, byte in enumerate(hidden)})
    return table
