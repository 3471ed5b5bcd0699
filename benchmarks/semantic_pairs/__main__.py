"""Pairs that judge the semantic cache.

python -m benchmarks.semantic_pairs build --data DATA_DIR --minilm BUNDLE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.semantic_pairs.build import make_pairs, read_questions
from benchmarks.semantic_pairs.vectors import embed

PAIRS = Path(__file__).resolve().parent.parent / "data" / "semantic_pairs"


def build(data: Path, bundle: Path, variant: str, cache: Path | None) -> None:
    questions = read_questions(data)
    vectors = embed(bundle, variant, (one.text for one in questions), cache)
    curation = json.loads((PAIRS / "curation.json").read_text(encoding="utf-8"))
    for half, rows in make_pairs(questions, vectors, curation).items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (PAIRS / f"{half}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{half}: {len(rows)} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.semantic_pairs", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    making = commands.add_parser("build", help="make the pairs again from the whole data sets")
    making.add_argument("--data", type=Path, required=True)
    for command in (making,):
        command.add_argument("--minilm", type=Path, required=True, help="bundle of the encoder")
        command.add_argument("--variant", default="int8")
        command.add_argument("--vectors", type=Path, help="file that keeps embeddings for later")
    arguments = parser.parse_args()
    build(arguments.data, arguments.minilm, arguments.variant, arguments.vectors)


if __name__ == "__main__":
    main()
