"""A classifier bundle's logits on labelled texts, by the code that will serve it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from edge_runtime.bundle.digests import model_digest
from edge_runtime.bundle.manifest import EncoderGraph, Manifest, Variant
from edge_runtime.bundle.pack import load_manifest, verify
from edge_runtime.core import FloatArray, Kind
from edge_runtime.engine.offline import EncoderSession, native_operators_run, open_encoder
from edge_runtime.errors import BundleError, UsageError
from export_tools.certify.traffic import Example

ROWS_PER_RUN = 32


@dataclass(frozen=True, slots=True)
class EncoderBundle:
    """One variant of a verified bundle, ready to run."""

    manifest: Manifest
    model_digest: str
    session: EncoderSession
    tokenizer: Tokenizer

    @classmethod
    def open(
        cls, directory: Path, variant: str, *, threads: int | None = None, native: bool = False
    ) -> EncoderBundle:
        """Verify every byte and load the graph. Raises `BundleError`, or `UsageError` for a kind
        or variant that is not there. For `native` see `graph_of`.
        """
        manifest = load_manifest(directory)
        verify(directory, manifest)
        try:
            chosen = manifest.variant(variant)
        except KeyError:
            names = ", ".join(item.name for item in manifest.variants)
            raise UsageError(f"no variant {variant!r}; {directory} has {names}") from None
        if not isinstance(chosen.contract, EncoderGraph):
            raise UsageError(f"{manifest.name} is no encoder: it is of kind {manifest.kind}")
        path = directory / manifest.tokenizer.file
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises its base class for every fault
            raise BundleError(str(path), f"is no tokenizer: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        graph, native = graph_of(chosen, native=native)
        session = open_encoder(
            directory / graph,
            chosen.contract,
            max_len=manifest.context,
            threads=threads,
            pad_token_id=manifest.tokenizer.pad_token_id or 0,
            native=native,
        )
        return cls(manifest, model_digest(manifest, variant), session, tokenizer)

    def fits(self, text: str) -> bool:
        """Whether the model can take the text; what it cannot take escalates unseen."""
        return len(self.tokenizer.encode(text).ids) <= self.session.max_len

    def outputs(self, texts: Sequence[str]) -> FloatArray:
        """Rows float32 [len(texts), width] in the order of `texts`, all of which fit."""
        batch = [item.ids for item in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(batch)), key=lambda index: len(batch[index]))
        result = np.empty((len(batch), self.session.width), np.float32)
        for start in range(0, len(order), ROWS_PER_RUN):
            rows = order[start : start + ROWS_PER_RUN]
            result[rows] = self.session.run([batch[index] for index in rows])
        return result


def graph_of(variant: Variant, *, native: bool) -> tuple[str, bool]:
    """Path of the graph to load, and whether it is the native one: wanted, there, and runnable."""
    if native and variant.native_graph is not None and native_operators_run():
        return variant.native_graph, True
    return variant.graph, False


def classifier_errors(
    bundle: EncoderBundle, logits: FloatArray, examples: Sequence[Example]
) -> npt.NDArray[np.bool_]:
    """Where the best label is wrong, bool [len(examples)]; out of scope is always wrong.

    Raises `UsageError` for a bundle that is no classifier, or a label that it does not have.
    """
    labels = bundle.manifest.labels
    if bundle.manifest.kind is not Kind.CLASSIFY:
        raise UsageError(f"{bundle.manifest.name} is of kind {bundle.manifest.kind}, not classify")
    places = {label: at for at, label in enumerate(labels)}
    unknown = sorted({item.label for item in examples if item.label} - places.keys())
    if unknown:
        raise UsageError(
            f"the data name labels that {bundle.manifest.name} lacks: {', '.join(unknown[:5])}",
            param="data",
        )
    right = np.array([-1 if item.label is None else places[item.label] for item in examples])
    result: npt.NDArray[np.bool_] = logits.argmax(axis=1) != right
    return result
