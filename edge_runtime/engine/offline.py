"""Run a bundle's graphs without a server: export gates, certification, benchmarks.

Everything else outside the engine that must run a model comes through here, so that it is
judged by the same code that will serve it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from tokenizers import Tokenizer

from edge_runtime.bundle.manifest import DecoderGraph, EncoderGraph, Manifest
from edge_runtime.config import ModelSettings, ModelsSettings, Settings
from edge_runtime.core import FloatArray
from edge_runtime.engine.decoder import DecoderSession
from edge_runtime.engine.encoder import EncoderSession, packed_feeds, padded_feeds
from edge_runtime.engine.load import load_model
from edge_runtime.engine.native import library_path
from edge_runtime.engine.session import engine_errors, make_session, usable_cpus
from edge_runtime.engine.text import Codec
from edge_runtime.metrics import NullObserver

__all__ = [
    "Codec",
    "DecoderSession",
    "EncoderSession",
    "GraphRunner",
    "embed_texts",
    "native_operators_run",
    "open_decoder",
    "open_encoder",
    "packed_feeds",
    "padded_feeds",
    "self_check",
]


class GraphRunner:
    """Any graph with any inputs: calibration and comparisons, never serving."""

    def __init__(self, graph: Path, *, threads: int | None = None) -> None:
        """Load the graph; `threads` None takes what the box has. Raises `BundleError`."""
        self._session = make_session(graph, threads=threads or usable_cpus())
        self.inputs = tuple(item.name for item in self._session.get_inputs())
        self.outputs = tuple(item.name for item in self._session.get_outputs())

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> list[npt.NDArray[Any]]:
        """The named outputs (default: all, in the graph's order). Raises `EngineError`."""
        with engine_errors("graph run"):
            results: list[npt.NDArray[Any]] = self._session.run(
                list(outputs or self.outputs), dict(feeds)
            )
        return results


def native_operators_run() -> bool:
    """Whether this machine runs native graphs; what cannot be run here cannot be judged here."""
    return library_path() is not None


def open_encoder(
    graph: Path,
    contract: EncoderGraph,
    *,
    max_len: int,
    threads: int | None = None,
    pad_token_id: int = 0,
    native: bool = False,
) -> EncoderSession:
    """The encoder of one variant; `threads` None takes what the box has.

    `native` is for a graph of the daemon's own operators. Raises `BundleError` when the graph
    does not load or does not keep its contract.
    """
    return EncoderSession(
        graph,
        contract,
        max_len=max_len,
        threads=threads or usable_cpus(),
        pad_token_id=pad_token_id,
        native=native,
    )


def open_decoder(
    graph: Path,
    contract: DecoderGraph,
    *,
    slots: int,
    max_len: int,
    max_chunk: int,
    threads: int | None = None,
    native: bool = False,
) -> DecoderSession:
    """The decoder of one variant; see `open_encoder`. Raises like a session."""
    return DecoderSession(
        graph,
        contract,
        slots=slots,
        max_len=max_len,
        max_chunk=max_chunk,
        threads=threads or usable_cpus(),
        native=native,
    )


def embed_texts(session: EncoderSession, tokenizer: Path, texts: Sequence[str]) -> FloatArray:
    """Outputs for a few texts, float32 [len(texts), width], special tokens added."""
    codec = Tokenizer.from_file(str(tokenizer))
    codec.no_padding()
    codec.no_truncation()
    return session.run([codec.encode(text).ids[: session.max_len] for text in texts])


def self_check(directory: Path, manifest: Manifest) -> None:
    """Load every variant as the daemon would and hold its golden answers.

    Raises `BundleError` when one does not load or answers wrong.
    """
    for variant in manifest.variants:
        options = {manifest.name: ModelSettings(variant=variant.name, slots=1)}
        settings = Settings(models=ModelsSettings(options=options))
        load_model(
            directory, manifest, settings, deliver=lambda events: None, observer=NullObserver()
        )
