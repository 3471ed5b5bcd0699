"""Whether an encoder's answer to a golden input is the one its bundle promises. Pure."""

from __future__ import annotations

import numpy as np

from edge_runtime.bundle.manifest import Golden, Manifest
from edge_runtime.core import FloatArray, Kind


def encoder_answer(manifest: Manifest, golden: Golden, row: FloatArray) -> tuple[object, bool]:
    """What `row` [width] answers, and whether that is right: a label, or leading components."""
    if manifest.kind is Kind.CLASSIFY:
        label = manifest.labels[int(np.argmax(row))]
        return label, label == golden.answer
    wanted = np.asarray(golden.answer, np.float32)
    leading = row[: len(wanted)]
    shown = [round(float(value), 5) for value in leading]
    close = len(wanted) <= len(row) and bool(np.abs(leading - wanted).max() <= golden.tolerance)
    return shown, close
