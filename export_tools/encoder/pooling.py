"""How a checkpoint turns token vectors into one, as sentence-transformers writes it down.

`modules.json` lists the modules in order. Understood: Transformer, Pooling (mean or first
token), Normalize. Without the file, tokens are averaged and the result is normalised, which is
what most embedding models were trained with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.errors import BundleError
from export_tools.encoder.config import read_json

MODULES_FILE = "modules.json"
SENTENCE_FILE = "sentence_bert_config.json"
_MODES: dict[str, Literal["mean", "cls"]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """`mode` says which tokens count; `normalize` divides by the L2 norm."""

    mode: Literal["mean", "cls"]
    normalize: bool


def read_pooling(checkpoint: Path) -> Pooling:
    """The checkpoint's pooling. Raises `BundleError` for modules that the graph does not have."""
    path = checkpoint / MODULES_FILE
    if not path.is_file():
        return Pooling("mean", normalize=True)
    mode: Literal["mean", "cls"] = "mean"
    normalize = False
    for module in _modules(path):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            mode = _pooling_mode(checkpoint / str(module.get("path", "")) / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise BundleError(
                MODULES_FILE,
                f"module {kind} cannot be exported; supported: Transformer, Pooling, Normalize",
            )
    return Pooling(mode, normalize)


def max_tokens(checkpoint: Path, positions: int) -> int:
    """Longest input in tokens: what the source was configured for, at most `positions`."""
    path = checkpoint / SENTENCE_FILE
    if not path.is_file():
        return positions
    configured = read_json(path).get("max_seq_length")
    if configured is None:
        return positions
    if not isinstance(configured, int) or configured <= 0:
        raise BundleError(SENTENCE_FILE, f"max_seq_length = {configured!r} is no positive integer")
    return min(configured, positions)


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise BundleError(MODULES_FILE, f"is no JSON: {error}") from error
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise BundleError(MODULES_FILE, "is no list of modules")
    return document


def _pooling_mode(path: Path) -> Literal["mean", "cls"]:
    config = read_json(path)
    active = [
        name for name, on in config.items() if name.startswith("pooling_mode_") and on is True
    ]
    if len(active) != 1 or active[0] not in _MODES:
        raise BundleError(
            str(path), f"pooling {active} cannot be exported; supported: one of {', '.join(_MODES)}"
        )
    return _MODES[active[0]]
