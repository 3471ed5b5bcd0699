"""How close each variant of an embedding checkpoint stays to float32, on texts of your own.

`python -m benchmarks.encoder_quality CHECKPOINT TEXTS [--variants ...]` exports every variant to
a temporary directory and prints a Markdown table: size, cosine to the float32 graph (1st
percentile, median, lowest), and the lowest cosine of a text run alone and beside others. TEXTS
is a text file with a sentence a line, or JSON lines with a `text`; none of them is used to
calibrate.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.encoder_speed import load_rows
from edge_runtime.bundle.manifest import EncoderGraph
from edge_runtime.engine.offline import EncoderSession, open_encoder
from export_tools.draft import VariantDraft
from export_tools.encoder.export import build_variant, encoder_facts
from export_tools.gate.encoder import company_cosine, run_all
from export_tools.gate.measures import cosines

COMPANY_ROWS = 100


def main() -> None:
    """Parse arguments, export, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument(
        "--variants", nargs="+", default=["int8", "int8-7bit", "int8-blocks", "int4"]
    )
    arguments = parser.parse_args()
    short, long = load_rows(arguments.checkpoint, arguments.texts)
    context = encoder_facts(arguments.checkpoint).context
    batch = [row[:context] for row in (*short, *long)]
    print(f"{len(batch)} texts of {np.mean([len(row) for row in batch]):.1f} tokens\n")
    print("| variant | MB | cosine p1 | median | lowest | alone to company, lowest |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        _, reference = load(arguments.checkpoint, Path(name), "fp32")
        expected = run_all(reference, batch)
        for variant in arguments.variants:
            draft, model = load(arguments.checkpoint, Path(name), variant)
            found = cosines(run_all(model, batch), expected)
            company = company_cosine(model, batch[:: len(batch) // COMPANY_ROWS])
            print(
                f"| {variant} | {draft.size_bytes / 1e6:.1f} | {np.quantile(found, 0.01):.4f} "
                f"| {np.median(found):.4f} | {found.min():.4f} | {company:.7f} |"
            )


def load(checkpoint: Path, directory: Path, variant: str) -> tuple[VariantDraft, EncoderSession]:
    """One exported variant, ready to run."""
    draft = build_variant(checkpoint, directory, variant, task="embed")
    assert isinstance(draft.contract, EncoderGraph)
    context = encoder_facts(checkpoint, "embed").context
    return draft, open_encoder(directory / draft.graph, draft.contract, max_len=context)


if __name__ == "__main__":
    main()
