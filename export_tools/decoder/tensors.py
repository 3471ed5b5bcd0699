"""Which tensors a decoder checkpoint must hold, and their shapes."""

from __future__ import annotations

from edge_runtime.errors import BundleError
from export_tools.decoder.config import DecoderConfig
from export_tools.weights import Checkpoint

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"
_IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)  # buffers of old checkpoints, computed anew


def layer_prefix(layer: int) -> str:
    """Prefix of a layer's tensors."""
    return f"model.layers.{layer}."


def expected_tensors(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor the graph is built from."""
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab, config.hidden),
        FINAL_NORM: (config.hidden,),
    }
    if not config.tied:
        shapes[HEAD] = (config.vocab, config.hidden)
    for layer in range(config.layers):
        for name, shape in _layer_tensors(config).items():
            shapes[layer_prefix(layer) + name] = shape
    return shapes


def _layer_tensors(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden, config.intermediate
    matrices = {
        "self_attn.q_proj": (config.q_width, hidden, config.qkv_bias),
        "self_attn.k_proj": (config.kv_width, hidden, config.qkv_bias),
        "self_attn.v_proj": (config.kv_width, hidden, config.qkv_bias),
        "self_attn.o_proj": (hidden, config.q_width, config.o_bias),
        "mlp.gate_proj": (inner, hidden, config.mlp_bias),
        "mlp.up_proj": (inner, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, inner, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if config.qk_norm:
        shapes["self_attn.q_norm.weight"] = (config.head_dim,)
        shapes["self_attn.k_norm.weight"] = (config.head_dim,)
    for name, (rows, cols, biased) in matrices.items():
        shapes[f"{name}.weight"] = (rows, cols)
        if biased:
            shapes[f"{name}.bias"] = (rows,)
    return shapes


def check_tensors(config: DecoderConfig, checkpoint: Checkpoint) -> None:
    """Raise `BundleError` naming missing, unknown and misshapen tensors."""
    expected = expected_tensors(config)
    found = {name: info.shape for name, info in checkpoint.tensors.items()}
    allowed = {HEAD} if config.tied else set()
    problems = [
        _listed("missing tensors", sorted(expected.keys() - found.keys())),
        _listed(
            "unknown tensors",
            sorted(
                name
                for name in found.keys() - expected.keys() - allowed
                if not name.endswith(_IGNORED_SUFFIXES)
            ),
        ),
        _listed(
            "wrong shapes",
            [
                f"{name} is {list(found[name])}, config needs {list(shape)}"
                for name, shape in expected.items()
                if name in found and found[name] != shape
            ],
        ),
    ]
    stated = [problem for problem in problems if problem]
    if stated:
        raise BundleError(str(checkpoint.directory), "; ".join(stated))


def _listed(title: str, names: list[str], limit: int = 8) -> str:
    if not names:
        return ""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{title}: {', '.join(names[:limit])}{more}"
