"""What a decoder's `config.json` means, checked before any weight is read.

Anything this exporter does not build exactly is refused by name: a graph that is almost right
answers almost right, and nobody would notice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import BundleError
from export_tools.decoder.rope import RopeSpec, parse_rope

CONFIG_FILE = "config.json"
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
DEFAULT_MAX_CONTEXT = 32768


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes and switches of one decoder. `windows` holds the attention window of each layer."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    norm_eps: float
    rope: RopeSpec
    tied: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int | None, ...]

    @property
    def q_width(self) -> int:
        """Columns of the query projection."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Columns of the key (and of the value) projection."""
        return self.kv_heads * self.head_dim


def read_config(directory: Path) -> dict[str, Any]:
    """The checkpoint's `config.json`. Raises `BundleError` when it is absent or no object."""
    path = directory / CONFIG_FILE
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BundleError(
            str(directory), f"has no {CONFIG_FILE}; give a checkpoint directory"
        ) from None
    except ValueError as error:
        raise BundleError(CONFIG_FILE, f"is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(CONFIG_FILE, "is no JSON object")
    return document


def parse_config(config: Mapping[str, Any], max_context: int | None = None) -> DecoderConfig:
    """Check and read a decoder configuration.

    `max_context` caps the context (default 32,768 tokens). Raises `BundleError` naming the
    field and what is supported.
    """
    family = _family(config)
    _refuse_unbuilt(config)
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    kv_heads = _size(config, "num_key_value_heads", heads)
    head_dim = _size(config, "head_dim", hidden // heads)
    positions = _size(config, "max_position_embeddings")
    layers = _size(config, "num_hidden_layers")
    if heads % kv_heads:
        raise _refused("num_key_value_heads", kv_heads, f"a divisor of {heads} heads")
    if head_dim % 16:
        raise _refused("head_dim", head_dim, "a multiple of 16")
    attention_bias = bool(config.get("attention_bias", False))
    return DecoderConfig(
        family=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=_size(config, "intermediate_size"),
        vocab=_size(config, "vocab_size"),
        context=min(positions, max_context or DEFAULT_MAX_CONTEXT),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope=parse_rope(config, head_dim, positions),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or (family in ("llama", "qwen3") and attention_bias),
        o_bias=family in ("llama", "qwen3") and attention_bias,
        mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
        windows=_windows(config, family, layers),
    )


def _refused(name: str, value: object, supported: str) -> BundleError:
    return BundleError(
        CONFIG_FILE, f"{name} = {value!r} cannot be exported; supported: {supported}"
    )


def _family(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or []
    if len(names) != 1 or names[0] not in ARCHITECTURES:
        raise _refused("architectures", names, ", ".join(ARCHITECTURES))
    return ARCHITECTURES[names[0]]


def _refuse_unbuilt(config: Mapping[str, Any]) -> None:
    """Refuse switches that change the arithmetic and that the graph does not have."""
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise _refused("hidden_act", activation, "silu")
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if config.get(name):
            raise _refused(name, config[name], "dense models only")
    if config.get("quantization_config"):
        raise _refused("quantization_config", "...", "float checkpoints only")
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        raise _refused("partial_rotary_factor", config["partial_rotary_factor"], "1.0")
    for name in ("rope_interleaved", "use_mrope"):
        if config.get(name):
            raise _refused(name, config[name], "false")
    if config.get("attn_logit_softcapping") or config.get("final_logit_softcapping"):
        raise _refused("logit softcapping", True, "none")


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _refused(name, value, "a positive integer")
    return value


def _windows(config: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, ...]:
    """Attention window of each layer in tokens (the token itself included), None for full."""
    window = config.get("sliding_window")
    qwen = family in ("qwen2", "qwen3")
    if family == "llama" or not window or (qwen and not config.get("use_sliding_window", False)):
        return (None,) * layers
    kinds = config.get("layer_types")
    if kinds:
        if len(kinds) != layers or set(kinds) - {"full_attention", "sliding_attention"}:
            raise _refused("layer_types", kinds, f"{layers} of full_attention, sliding_attention")
        return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)
    first = int(config.get("max_window_layers", 0)) if qwen else 0
    return tuple(int(window) if layer >= first else None for layer in range(layers))
