"""Where each family keeps its tensors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edge_runtime.errors import BundleError
from export_tools.encoder.config import EncoderConfig, Family


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Prefixes of one layer's modules; `.weight` and `.bias` follow."""

    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    up: str
    down: str
    output_norm: str


@dataclass(frozen=True, slots=True)
class HeadNames:
    """Prefixes of the two linear layers of a classification head."""

    dense: str
    logits: str


_ROOTS: dict[Family, tuple[str, ...]] = {
    "bert": ("bert.", ""),
    "roberta": ("roberta.", ""),
    "distilbert": ("distilbert.", ""),
}
_HEADS: dict[Family, HeadNames] = {
    "bert": HeadNames("bert.pooler.dense", "classifier"),
    "roberta": HeadNames("classifier.dense", "classifier.out_proj"),
    "distilbert": HeadNames("pre_classifier", "classifier"),
}
_BERT_LAYER = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
_DISTILBERT_LAYER = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
)


class EncoderNames:
    """Tensor names of one checkpoint, with or without the prefix of a task model."""

    def __init__(self, config: EncoderConfig, tensors: Collection[str]) -> None:
        self._family = config.family
        for root in _ROOTS[config.family]:
            if f"{root}embeddings.word_embeddings.weight" in tensors:
                self._root = root
                return
        raise BundleError(
            "model.safetensors",
            f"holds no embeddings of a {config.family} model; is config.json from another model?",
        )

    @property
    def words(self) -> str:
        """The word embedding table."""
        return f"{self._root}embeddings.word_embeddings.weight"

    @property
    def positions(self) -> str:
        """The position table."""
        return f"{self._root}embeddings.position_embeddings.weight"

    @property
    def token_types(self) -> str:
        """The token type table (not in DistilBERT)."""
        return f"{self._root}embeddings.token_type_embeddings.weight"

    @property
    def embedding_norm(self) -> str:
        """Prefix of the norm after the embeddings."""
        return f"{self._root}embeddings.LayerNorm"

    @property
    def head(self) -> HeadNames:
        """The classification head."""
        return _HEADS[self._family]

    def layer(self, index: int) -> LayerNames:
        """The modules of layer `index`."""
        if self._family == "distilbert":
            prefix, layer = f"{self._root}transformer.layer.{index}.", _DISTILBERT_LAYER
        else:
            prefix, layer = f"{self._root}encoder.layer.{index}.", _BERT_LAYER
        return LayerNames(**{name: prefix + getattr(layer, name) for name in LayerNames.__slots__})
