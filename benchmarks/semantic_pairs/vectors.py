"""Embeddings of the pairs' texts by the bundle that the cache would use, computed once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export_tools.certify.classifier import EncoderBundle

Vectors = dict[str, npt.NDArray[np.float32]]
BATCH = 64


def embed(bundle: Path, variant: str, texts: Iterable[str], cache: Path | None = None) -> Vectors:
    """Unit vectors float32 [width] by text; `cache` is a file of earlier ones, kept up to date."""
    wanted = sorted(set(texts), key=lambda text: (len(text), text))
    model = EncoderBundle.open(bundle, variant, threads=1)
    known: Vectors = {}
    if cache is not None and cache.exists():
        with np.load(cache, allow_pickle=False) as file:
            if str(file["digest"]) == model.model_digest:
                known = dict(zip(file["texts"].tolist(), file["vectors"], strict=True))
    missing = [text for text in wanted if text not in known]
    for start in range(0, len(missing), BATCH):
        some = missing[start : start + BATCH]
        rows = np.asarray(model.outputs(some), np.float32)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        known.update(zip(some, rows, strict=True))
    if cache is not None and missing:
        np.savez(
            cache,
            digest=np.array(model.model_digest),
            texts=np.array(list(known)),
            vectors=np.stack(list(known.values())),
        )
    return {text: known[text] for text in wanted}
