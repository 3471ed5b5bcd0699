"""The weights of one encoder, changed on the way where that saves work and loses nothing.

- The key bias is dropped: it adds the same number to all scores of a query, and softmax does
  not see that.
- The value bias moves behind the attention: weights of a query sum to 1, so attention passes it
  on unchanged, and `W_o (v + b_v) + b_o = W_o v + (W_o b_v + b_o)`.
- Token type 0 is added to the position table: every input is of that type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edge_runtime.errors import BundleError
from export_tools.encoder.config import EncoderConfig
from export_tools.encoder.names import EncoderNames
from export_tools.quant.rows import FloatArray, Rows
from export_tools.weights import Checkpoint

_SMOOTHING = 0.6
"""How much of a channel's range moves into the weights. MiniLM-L6, cosine to fp32 at p1: .986
without, .9945 / .9955 / .9954 / .9949 at .4 / .6 / .75 / .9."""


class ScaledRows:
    """`Rows` whose columns are multiplied by `factors` [cols]."""

    def __init__(self, rows: Rows, factors: FloatArray) -> None:
        self._rows = rows
        self._factors = factors

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._rows.rows

    @property
    def cols(self) -> int:
        """Number of columns."""
        return self._rows.cols

    def blocks(self) -> Iterator[FloatArray]:
        """Float32 blocks in order."""
        for block in self._rows.blocks():
            yield block * self._factors


class EncoderWeights:
    """Named parts of the model, as the graph wants them.

    `peaks` maps a norm's prefix to the largest magnitudes [hidden] of its output; see
    `export_tools.encoder.calibrate`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        source: Checkpoint,
        peaks: Mapping[str, FloatArray] | None = None,
    ) -> None:
        self.config = config
        self.names = EncoderNames(config, source.tensors)
        self._source = source
        self._again = Checkpoint(source.directory)  # second readings are no progress
        self._peaks = peaks or {}

    def matrix(self, prefix: str) -> Rows:
        """The weight [N, K] of a linear layer."""
        return self._source.matrix(f"{prefix}.weight")

    def bias(self, prefix: str) -> FloatArray:
        """The bias [N] of a linear layer or a norm."""
        return self._source.vector(f"{prefix}.bias")

    def gain(self, norm: str) -> FloatArray:
        """The gain [hidden] of a norm."""
        return self._source.vector(f"{norm}.weight")

    def input_norm(self, layer: int) -> str:
        """Prefix of the norm whose output layer `layer` reads."""
        return self.names.layer(layer - 1).output_norm if layer else self.names.embedding_norm

    def smoothing(self, norm: str, readers: Sequence[str]) -> FloatArray | None:
        """Divisors [hidden] for a norm's output, or None where nothing is known of it.

        `readers` are the linear layers behind it; their weights take the divisors as factors.
        Formula (5) of SmoothQuant, Xiao et al. 2022, arXiv 2211.10438, scaled to a geometric
        mean of 1.
        """
        if norm not in self._peaks:
            return None
        heavy = [np.abs(block).max(axis=0) for name in readers for block in self._rows(name)]
        weight = np.max(heavy, axis=0).astype(np.float64)
        peak = self._peaks[norm].astype(np.float64)
        floor = 1e-5
        ratio = np.maximum(peak, floor * peak.max()) ** _SMOOTHING / np.maximum(
            weight, floor * weight.max()
        ) ** (1 - _SMOOTHING)
        divisors: FloatArray = (ratio / np.exp(np.log(ratio).mean())).astype(np.float32)
        return divisors

    def words(self) -> Rows:
        """The word table [vocab, hidden]."""
        table = self._source.matrix(self.names.words)
        _check(self.names.words, (table.rows, table.cols), (self.config.vocab, self.config.hidden))
        return table

    def positions(self) -> FloatArray:
        """Position plus token type 0, float32 [positions, hidden], unused rows left out."""
        config = self.config
        table = np.concatenate(list(self._source.matrix(self.names.positions).blocks()))
        expected = (config.positions + config.position_offset, config.hidden)
        _check(self.names.positions, table.shape, expected)
        table = table[config.position_offset :]
        if config.has_token_types:
            table = table + next(iter(self._source.matrix(self.names.token_types).blocks()))[0]
        return table

    def output_bias(self, layer: int) -> FloatArray:
        """The bias after attention with the value bias in it. Reads that weight once more."""
        names = self.names.layer(layer)
        value = self.bias(names.value).astype(np.float64)
        passed = np.concatenate([block @ value for block in self._rows(names.output)])
        total: FloatArray = (self.bias(names.output) + passed).astype(np.float32)
        return total

    def _rows(self, prefix: str) -> Iterator[FloatArray]:
        return self._again.matrix(f"{prefix}.weight").blocks()


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
        _check(f"{name}.weight", (matrix.rows, matrix.cols), (rows, cols))
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
