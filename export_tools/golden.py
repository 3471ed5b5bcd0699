"""Golden inputs of a bundle: what every box must answer before it serves the bundle.

A recipe names inputs and, for generators and classifiers, the answers they must have. The built
bundle is asked itself: a stated answer that it does not give ends the export, and the first
components of an embedding are recorded with a tolerance that covers rounding on other processors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from edge_runtime.bundle.manifest import EncoderGraph, Golden, Tokenizer
from edge_runtime.core import Kind
from edge_runtime.engine.offline import embed_texts, open_encoder
from edge_runtime.errors import UsageError
from export_tools.draft import VariantDraft

COMPONENTS = 16
"""Leading components of an embedding that are recorded."""

TOLERANCE = 0.02
"""Largest difference of a component that another processor's rounding may make."""


class GoldenInput(BaseModel):
    """One `[[golden]]` table: `answer` is the text or label; embeddings are recorded instead."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str = Field(min_length=1)
    answer: str | None = None


def golden_sections(
    kind: Kind,
    inputs: Sequence[GoldenInput],
    directory: Path,
    *,
    draft: VariantDraft,
    tokenizer: Tokenizer,
    context: int,
) -> list[dict[str, object]]:
    """The manifest's `golden` for `inputs`, embeddings taken from the built variant.

    Raises `UsageError` when an answer is missing where the kind needs one, or given where it
    cannot be.
    """
    for item in inputs:
        if (item.answer is None) != (kind is Kind.EMBED):
            problem = "records its answer itself" if kind is Kind.EMBED else "needs an answer"
            raise UsageError(f"golden input {item.input!r}: {kind} {problem}", param="golden")
    if kind is Kind.EMBED:
        goldens = _recorded(inputs, directory, draft, tokenizer, context)
    else:
        goldens = [Golden(input=item.input, answer=item.answer or "") for item in inputs]
    return [golden.model_dump(mode="json") for golden in goldens]


def _recorded(
    inputs: Sequence[GoldenInput],
    directory: Path,
    draft: VariantDraft,
    tokenizer: Tokenizer,
    context: int,
) -> list[Golden]:
    if not inputs:
        return []
    assert isinstance(draft.contract, EncoderGraph)
    session = open_encoder(
        directory / draft.graph,
        draft.contract,
        max_len=context,
        pad_token_id=tokenizer.pad_token_id or 0,
    )
    rows = embed_texts(session, directory / tokenizer.file, [item.input for item in inputs])
    return [
        Golden(
            input=item.input,
            answer=tuple(round(float(value), 5) for value in row[:COMPONENTS]),
            tolerance=TOLERANCE,
        )
        for item, row in zip(inputs, rows, strict=True)
    ]
