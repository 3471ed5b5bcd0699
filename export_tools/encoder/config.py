"""What an encoder's `config.json` means, checked before any weight is read.

BERT (and MiniLM), RoBERTa, XLM-RoBERTa and DistilBERT share one computation: post-norm layers,
absolute positions, GELU between two linear layers. They differ in names, in where positions
start and in the classification head. What this exporter does not build exactly is refused by
name; `export_tools.encoder.other` takes such checkpoints by another way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.errors import BundleError

CONFIG_FILE = "config.json"
Task = Literal["embed", "classify"]
Family = Literal["bert", "roberta", "distilbert"]

FAMILIES: dict[str, Family] = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "distilbert": "distilbert",
}
"""`model_type` to the family whose names and head it uses."""

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_DISTILBERT_NAMES = {
    "hidden_size": "dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes and switches of one encoder.

    `position_offset` rows at the start of the position table are never used (RoBERTa counts
    from the padding id up); `positions` is the number of usable ones.
    """

    family: Family
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int
    positions: int
    position_offset: int
    activation: str
    norm_eps: float
    has_token_types: bool
    classifies: bool
    labels: tuple[str, ...]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `BundleError` when the file is absent or holds something else."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BundleError(str(path), "is missing; give a whole checkpoint directory") from None
    except ValueError as error:
        raise BundleError(str(path), f"is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(str(path), "is no JSON object")
    return document


def is_builtin(config: Mapping[str, Any]) -> bool:
    """Whether this exporter builds the model itself, by its `model_type`."""
    return config.get("model_type") in FAMILIES


def classifies(config: Mapping[str, Any]) -> bool:
    """Whether the checkpoint carries a sequence classification head."""
    return any(
        str(name).endswith("ForSequenceClassification")
        for name in config.get("architectures") or ()
    )


def read_labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Label names in the order of the logits. Raises `BundleError` when an index is missing."""
    names = config.get("id2label") or {}
    try:
        return tuple(str(names[str(index)]) for index in range(len(names)))
    except (KeyError, TypeError):
        raise _refused("id2label", names, "one name for each index from 0") from None


def parse_config(config: Mapping[str, Any]) -> EncoderConfig:
    """Check and read an encoder configuration.

    Raises `BundleError` naming the field and what is supported.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise _refused("model_type", model_type, ", ".join(FAMILIES))
    family = FAMILIES[str(model_type)]
    _refuse_unbuilt(config)
    hidden, heads = (
        _size(config, family, "hidden_size"),
        _size(config, family, "num_attention_heads"),
    )
    if hidden % heads:
        raise _refused("num_attention_heads", heads, f"a divisor of the width {hidden}")
    offset = int(config.get("pad_token_id", 1)) + 1 if family == "roberta" else 0
    activation = str(_value(config, family, "hidden_act", "gelu"))
    if activation not in _ACTIVATIONS:
        raise _refused("hidden_act", activation, ", ".join(_ACTIVATIONS))
    return EncoderConfig(
        family=family,
        layers=_size(config, family, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        intermediate=_size(config, family, "intermediate_size"),
        vocab=_size(config, family, "vocab_size"),
        positions=_size(config, family, "max_position_embeddings") - offset,
        position_offset=offset,
        activation=_ACTIVATIONS[activation],
        norm_eps=float(config.get("layer_norm_eps", 1e-12)),
        has_token_types=family != "distilbert",
        classifies=classifies(config),
        labels=read_labels(config) if classifies(config) else (),
    )


def _refused(name: str, value: object, supported: str) -> BundleError:
    return BundleError(
        CONFIG_FILE, f"{name} = {value!r} cannot be exported; supported: {supported}"
    )


def _refuse_unbuilt(config: Mapping[str, Any]) -> None:
    """Refuse switches that change the arithmetic and that the graph does not have."""
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise _refused("position_embedding_type", positions, "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        if config.get(name):
            raise _refused(name, True, "encoders only")
    if config.get("quantization_config"):
        raise _refused("quantization_config", "...", "float checkpoints only")


def _value(config: Mapping[str, Any], family: Family, name: str, default: object = None) -> object:
    key = _DISTILBERT_NAMES.get(name, name) if family == "distilbert" else name
    return config.get(key, default)


def _size(config: Mapping[str, Any], family: Family, name: str) -> int:
    value = _value(config, family, name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _refused(name, value, "a positive integer")
    return value
