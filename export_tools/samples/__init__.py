"""The sentences that calibration and gates run on, as tokens of one model.

200 requests to an assistant, 1 to 30 words each, shipped with their licence in
`sentences.txt`, so that a build needs no data from elsewhere.
"""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

from tokenizers import Tokenizer

from edge_runtime.errors import BundleError

TOKENIZER_FILE = "tokenizer.json"
_LONG_GROUPS = 8


@functools.cache
def sentences() -> tuple[str, ...]:
    """The shipped sentences, in a fixed order."""
    text = resources.files("export_tools.samples").joinpath("sentences.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def paragraphs() -> tuple[str, ...]:
    """A few long texts: the sentences in groups."""
    every = sentences()
    return tuple(". ".join(every[start::_LONG_GROUPS]) for start in range(_LONG_GROUPS))


def tokenize(directory: Path, max_len: int) -> list[list[int]]:
    """Tokens of every sentence, then of every paragraph, each cut to `max_len`.

    Special tokens as the model was trained with. Raises `BundleError` when the directory's
    tokenizer cannot be read.
    """
    path = directory / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises its base class for every fault
        raise BundleError(str(path), f"is no tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_len)
    return [tokenizer.encode(text).ids for text in (*sentences(), *paragraphs())]
