"""Pairs that judge the semantic cache.

python -m benchmarks.semantic_pairs build --data DATA_DIR --minilm BUNDLE
python -m benchmarks.semantic_pairs fit --minilm BUNDLE
python -m benchmarks.semantic_pairs report --minilm BUNDLE --half test --markdown table.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.semantic_pairs import judge
from benchmarks.semantic_pairs.build import CAUSE, make_pairs, read_questions
from benchmarks.semantic_pairs.vectors import embed
from edge_runtime.cache.semantic import score

PAIRS = Path(__file__).resolve().parent.parent / "data" / "semantic_pairs"
SCORE = Path(score.__file__).with_name("score.json")
ENCODER = "minilm-l6"
SETS = ("dev", "test", "again", "fresh", "last")


def file_of(half: str) -> Path:
    """The file of a set of pairs."""
    return PAIRS / f"{half}.jsonl{'.gz' if half == 'last' else ''}"


def build(arguments: argparse.Namespace) -> None:
    questions = read_questions(arguments.data)
    texts = [one.text for one in questions]
    vectors = embed(arguments.minilm, arguments.variant, texts, arguments.vectors)
    curation = json.loads((PAIRS / "curation.json").read_text(encoding="utf-8"))
    for half, rows in make_pairs(questions, vectors, curation).items():
        judge.write_pairs(file_of(half), rows)
        print(f"{half}: {len(rows)} pairs")


def fit(arguments: argparse.Namespace) -> None:
    sets = {half: judge.read_pairs(file_of(half)) for half in SETS if half != "last"}
    wrong = {*json.loads((PAIRS / "curation.json").read_text(encoding="utf-8"))["last"]["texts"]}
    rows = [row for some in sets.values() for row in some if fits(row, wrong)]
    texts = judge.texts_of(rows)
    vectors = embed(arguments.minilm, arguments.variant, texts, arguments.vectors)
    found = judge.fit(rows, vectors, ENCODER, judge.texts_of(sets["dev"]))
    SCORE.write_bytes(found)
    shown = json.loads(found)
    print(json.dumps({name: shown[name] for name in ("threshold", "fitted", "bias")}, indent=2))


def fits(row: judge.Row, wrong: set[str]) -> bool:
    """False for what reading has found wrong since: labels, and "why" put for "how come"."""
    edited = row["kind"].startswith("edit-") and CAUSE.search(row["a"])
    return not edited and row["a"] not in wrong and row["b"] not in wrong


def report(arguments: argparse.Namespace) -> None:
    rows = judge.read_pairs(file_of(arguments.half))
    texts = judge.texts_of(rows)
    vectors = embed(arguments.minilm, arguments.variant, texts, arguments.vectors)
    scorer = score.shipped()
    outcomes = judge.judge(rows, vectors, scorer)
    lines = ["| pairs | n | refused by gates | hits | |", "|---|---:|---:|---:|---:|"]
    for name, total, refused, hits in judge.by_kind(outcomes, scorer.threshold):
        lines.append(f"| {name} | {total} | {refused} | {hits} | {hits / total:.1%} |")
    table = "\n".join(lines) + "\n"
    figures = {
        "half": arguments.half,
        "threshold": scorer.threshold,
        **judge.summary(outcomes, scorer.threshold),
        "each_question_once": judge.summary(judge.once_each(outcomes), scorer.threshold),
        "cosine_alone": judge.cosine_only(outcomes, gated=False),
        "cosine_behind_gates": judge.cosine_only(outcomes, gated=True),
    }
    print(table)
    for one in sorted(outcomes, key=lambda one: -one.score):
        if one.score >= scorer.threshold and not one.row["same"]:
            print(f"false hit {one.score:.4f}: {one.row['a']} | {one.row['b']}")
    print(json.dumps(figures, indent=2))
    if arguments.markdown is not None:
        arguments.markdown.write_text(table, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.semantic_pairs", description=__doc__)
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("build", help="make the pairs again from the whole data sets")
    making.add_argument("--data", type=Path, required=True)
    making.set_defaults(run=build)
    fitting = commands.add_parser("fit", help="fit the score and its threshold on what was seen")
    fitting.set_defaults(run=fit)
    judging = commands.add_parser("report", help="what gates and score do to one half")
    judging.add_argument("--half", choices=SETS, default="test")
    judging.add_argument("--markdown", type=Path, help="also write the table here")
    judging.set_defaults(run=report)
    for command in (making, fitting, judging):
        command.add_argument("--minilm", type=Path, required=True, help="bundle of the encoder")
        command.add_argument("--variant", default="int8")
        command.add_argument("--vectors", type=Path, help=".npz that keeps embeddings for later")
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
