"""Runs encoder graphs: embeddings and classifiers.

Two graph contracts are served behind one interface:

- `encoder-packed/1`: the tokens of all sequences lie on one axis, and only attention sees a
  padded form. Padding costs nothing in the linear layers.
- `encoder-padded/1`: an ordinary [B, S] graph with an attention mask, for architectures that
  the packed form does not cover.

One thread owns an encoder: input buffers are reused from run to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import EncoderGraph
from edge_runtime.core import FloatArray
from edge_runtime.engine.session import engine_errors, make_session
from edge_runtime.errors import BundleError, UsageError

MAX_RUN_TOKENS = 16_384
"""Most positions (rows x longest) of one run; bounds the memory of its activations."""

IntArray = npt.NDArray[np.int64]
Feeds = dict[str, npt.NDArray[np.int64] | npt.NDArray[np.int32]]
_INPUTS = {
    "encoder-packed/1": ("input_ids", "pad_index", "unpad_index", "lengths"),
    "encoder-padded/1": ("input_ids", "attention_mask"),
}


class EncoderSession:
    """An `EncoderModel` over one graph of a bundle."""

    def __init__(
        self,
        graph: Path,
        contract: EncoderGraph,
        *,
        max_len: int,
        threads: int,
        pad_token_id: int = 0,
        spinning: bool = False,
        native: bool = False,
        max_run_tokens: int = MAX_RUN_TOKENS,
    ) -> None:
        """Load the graph. Raises `BundleError` when it does not keep its contract."""
        self._contract = contract
        self._max_len = max_len
        self._max_run_tokens = max(max_run_tokens, max_len)
        self._pad_token_id = pad_token_id
        self._session = make_session(graph, threads=threads, spinning=spinning, native=native)
        found = {item.name for item in self._session.get_inputs()}
        if found != set(_INPUTS[contract.type]):
            raise BundleError(
                str(graph), f"inputs {sorted(found)} are not those of {contract.type}"
            )
        if [item.name for item in self._session.get_outputs()] != ["output"]:
            raise BundleError(str(graph), "must have exactly one output, called output")
        self._ids = np.empty(0, np.int64)

    @property
    def max_len(self) -> int:
        """Longest input in tokens, special tokens included."""
        return self._max_len

    @property
    def width(self) -> int:
        """Length of one output row: embedding dimension or number of labels."""
        return self._contract.width

    @property
    def max_run_tokens(self) -> int:
        """Most positions (rows times the longest row) that one run takes."""
        return self._max_run_tokens

    def run(self, batch: Sequence[Sequence[int]]) -> FloatArray:
        """Return float32 [len(batch), width], rows in the order of `batch`.

        Raises `UsageError` for an empty or too long input and for a batch beyond
        `max_run_tokens`, `EngineError` when the run fails. Rows of similar length run fastest:
        attention is computed over `len(batch) x longest`.
        """
        if not batch:
            return np.empty((0, self.width), np.float32)
        lengths = np.fromiter(map(len, batch), np.int64, len(batch))
        self._check(lengths)
        ids = self._flatten(batch, int(lengths.sum()))
        if self._contract.type == "encoder-packed/1":
            feeds = packed_feeds(ids, lengths)
        else:
            feeds = padded_feeds(ids, lengths, self._pad_token_id)
        with engine_errors("encoder run"):
            (output,) = self._session.run(["output"], feeds)
        result: FloatArray = output
        return result

    def _check(self, lengths: IntArray) -> None:
        longest = int(lengths.max())
        if int(lengths.min()) == 0:
            raise UsageError("an input without tokens cannot be encoded", param="input")
        if longest > self._max_len:
            raise UsageError(
                f"an input has {longest} tokens; this model takes {self._max_len}: shorten it",
                param="input",
                code="context_length_exceeded",
            )
        if longest * len(lengths) > self._max_run_tokens:
            raise UsageError(
                f"{len(lengths)} inputs of up to {longest} tokens exceed one run of "
                f"{self._max_run_tokens} tokens: send smaller batches",
                param="input",
            )

    def _flatten(self, batch: Sequence[Sequence[int]], total: int) -> IntArray:
        """All tokens in one reused buffer, which grows to the largest run and no further."""
        if len(self._ids) < total:
            self._ids = np.empty(
                min(max(total, 2 * len(self._ids)), self._max_run_tokens), np.int64
            )
        ids = self._ids[:total]
        ids[:] = np.fromiter(chain.from_iterable(batch), np.int64, total)
        return ids


def packed_feeds(ids: IntArray, lengths: IntArray) -> Feeds:
    """Inputs of `encoder-packed/1` for sequences of `lengths` [B] lying in `ids` [T].

    Padding of a row points to that row's own last token, so that no row reads another's.
    """
    longest = int(lengths.max())
    starts = np.cumsum(lengths) - lengths
    places = np.arange(longest)
    pad_index = starts[:, None] + np.minimum(places[None, :], lengths[:, None] - 1)
    shift = np.arange(len(lengths)) * longest - starts
    unpad_index = np.repeat(shift, lengths) + np.arange(len(ids))
    return {
        "input_ids": ids,
        "pad_index": pad_index,
        "unpad_index": unpad_index,
        "lengths": lengths.astype(np.int32),
    }


def padded_feeds(ids: IntArray, lengths: IntArray, pad_token_id: int) -> Feeds:
    """Inputs of `encoder-padded/1`: tokens on the left, `pad_token_id` behind them."""
    inside = np.arange(int(lengths.max()))[None, :] < lengths[:, None]
    table = np.full(inside.shape, pad_token_id, np.int64)
    table[inside] = ids
    return {"input_ids": table, "attention_mask": inside.astype(np.int64)}
