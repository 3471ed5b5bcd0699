"""llama.cpp's own converter, for tokenizers it has not met too.

    python benchmarks/peers/to_gguf.py LLAMA_CPP_SOURCES --outtype q8_0 --outfile OUT CHECKPOINT

The converter knows a byte-level tokenizer by a hash of what it makes of one text, and stops at any
other. Ours of random checkpoints splits as GPT-2's does; speed depends on neither.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

UNKNOWN_PRETOKENIZER = "gpt-2"


def main() -> None:
    sources = Path(sys.argv.pop(1)).resolve()
    sys.path[:0] = [str(sources), str(sources / "gguf-py")]
    from conversion.base import TextModel  # noqa: PLC0415 - found only now

    known = TextModel.get_vocab_base_pre

    def known_or_gpt2(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            return UNKNOWN_PRETOKENIZER

    TextModel.get_vocab_base_pre = known_or_gpt2
    runpy.run_path(str(sources / "convert_hf_to_gguf.py"), run_name="__main__")


if __name__ == "__main__":
    main()
