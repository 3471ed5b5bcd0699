"""The weights of one encoder, changed on the way where that saves work and loses nothing.

- The key bias is dropped: it adds the same number to all scores of a query, and softmax does
  not see that.
- The value bias moves behind the attention: weights of a query sum to 1, so attention passes it
  on unchanged, and `W_o (v + b_v) + b_o = W_o v + (W_o b_v + b_o)`.
- Token type 0 is added to the position table: every input is of that type.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_runtime.errors import BundleError
from export_tools.encoder.config import EncoderConfig
from export_tools.encoder.names import EncoderNames
from export_tools.quant.rows import FloatArray, Rows
from export_tools.weights import Checkpoint


class EncoderWeights:
    """Named parts of the model, as the graph wants them."""

    def __init__(self, config: EncoderConfig, source: Checkpoint) -> None:
        self.config = config
        self.names = EncoderNames(config, source.tensors)
        self._source = source

    def matrix(self, prefix: str) -> Rows:
        """The weight [N, K] of a linear layer."""
        return self._source.matrix(f"{prefix}.weight")

    def vector(self, name: str) -> FloatArray:
        """A vector by its full name."""
        return self._source.vector(name)

    def bias(self, prefix: str) -> FloatArray:
        """The bias [N] of a linear layer or norm."""
        return self._source.vector(f"{prefix}.bias")

    def words(self) -> Rows:
        """The word table [vocab, hidden]."""
        table = self._source.matrix(self.names.words)
        self._check(self.names.words, (table.rows, table.cols), (self.config.vocab, self.config.hidden))
        return table

    def positions(self) -> FloatArray:
        """Position plus token type 0, float32 [positions, hidden], unused rows left out."""
        config = self.config
        table = np.concatenate(list(self._source.matrix(self.names.positions).blocks()))
        expected = (config.positions + config.position_offset, config.hidden)
        self._check(self.names.positions, table.shape, expected)
        table = table[config.position_offset :]
        if config.has_token_types:
            table = table + next(iter(self._source.matrix(self.names.token_types).blocks()))[0]
        return table

    def output_bias(self, layer: int) -> FloatArray:
        """The bias after attention with the value bias in it. Reads that weight once more."""
        names = self.names.layer(layer)
        value = self.bias(names.value).astype(np.float64)
        passed = [block @ value for block in self.matrix(names.output).blocks()]
        return (self.bias(names.output) + np.concatenate(passed)).astype(np.float32)

    @staticmethod
    def _check(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if tuple(shape) != expected:
            raise BundleError("model.safetensors", f"{name} is {shape}, config.json says {expected}")


def check_shapes(weights: EncoderWeights) -> None:
    """Refuse a checkpoint whose tensors do not fit its configuration, before writing anything.

    Reads headers only.
    """
    config = weights.config
    for name, rows, cols in _expected(weights):
        matrix = weights.matrix(name)
        EncoderWeights._check(f"{name}.weight", (matrix.rows, matrix.cols), (rows, cols))
    if config.classifies and not config.labels:
        raise BundleError("config.json", "a classifier needs id2label")


def _expected(weights: EncoderWeights) -> Iterator[tuple[str, int, int]]:
    hidden, wide = weights.config.hidden, weights.config.intermediate
    for index in range(weights.config.layers):
        names = weights.names.layer(index)
        for prefix in (names.query, names.key, names.value, names.output):
            yield prefix, hidden, hidden
        yield names.up, wide, hidden
        yield names.down, hidden, wide
