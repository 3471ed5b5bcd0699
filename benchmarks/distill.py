"""What a student learns from captured answers of a frontier that errs, beside the truth.

    python -m benchmarks.distill --minilm BUNDLE --data DIR --markdown table.md

Questions of CLINC150's training part are answered by the frontier stand-in's oracle, kept by the
daemon's own capture, encrypted, and distilled. The student is a linear head on frozen MiniLM
features, so that a run takes minutes; it is judged on `validation`, which nobody captured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.certificate_populations import Floats, cached_outputs, fit_head
from benchmarks.frontier_answers import Behaviour, Oracle
from benchmarks.machine import describe_machine
from edge_runtime.bundle.capture_file import new_key
from edge_runtime.bundle.escalation import Escalation
from edge_runtime.router.contract import FrontierCall, Payer
from edge_runtime.router.escalate import classify_body
from edge_runtime.router.frontier.capture import Capture
from edge_runtime.router.frontier.memory import completion
from edge_runtime.router.frontier.redact import redact
from edge_runtime.router.frontier.settings import CaptureSettings
from export_tools.certify.classifier import EncoderBundle
from export_tools.certify.traffic import Example, read_examples
from export_tools.distill.command import DistillRequest, distill

RECIPE = Path(__file__).resolve().parents[1] / "models" / "intent-clinc150" / "recipe.toml"
SIZES = (500, 2000, 8000)
MAX_WAITING = 65_536  # nothing is dropped: all of it is offered at once


@dataclass(frozen=True, slots=True)
class Teacher:
    """A frontier: its share of wrong answers, and how often each question was asked."""

    name: str
    wrong: float
    answers: int = 1


TEACHERS = (
    Teacher("3 % wrong", 0.03),
    Teacher("10 % wrong", 0.10),
    Teacher("10 % wrong, asked three times", 0.10, answers=3),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `noise` is the share of wrong labels that were trained on."""

    asked: int
    teacher: str
    captured: int
    dropped: int
    trained: int
    noise: float
    student: float
    gold: float


class Lab:
    """Features of every text, the truth, and who answers."""

    def __init__(self, bundle: Path, data: Path, cache: Path) -> None:
        model = EncoderBundle.open(bundle, "int8", threads=1)
        folder = data / "clinc150"
        asked = read_examples([folder / "train.jsonl"])
        judged = read_examples([folder / "validation.jsonl"])
        self.asked = sorted(asked, key=lambda item: hashlib.sha256(item.text.encode()).digest())
        self.oracle = Oracle({item.text: str(item.label) for item in asked})
        # What is kept is redacted, so that is what a student sees.
        kept = [Example(redact(item.text), item.label) for item in asked]
        self.truth = {item.text: str(item.label) for item in kept}
        self.labels = tuple(sorted(set(self.truth.values())))
        every = [*kept, *judged]
        outputs = cached_outputs(model, every, cache)
        self.features = {item.text: row for item, row in zip(every, outputs, strict=True)}
        self.judged = judged
        section = tomllib.loads(RECIPE.read_text("utf-8"))["escalation"]
        self.escalation = Escalation.model_validate(section)

    def row(self, size: int, teacher: Teacher) -> Row:
        """Capture, distil, train, judge."""
        with tempfile.TemporaryDirectory(prefix="distill-") as name:
            folder = Path(name)
            captured = self._capture(folder, self.asked[:size], teacher)
            request = DistillRequest(
                (folder / "captured",), (folder / "key",), folder / "student", recipe=RECIPE
            )
            result = distill(request)
        assert result.split is not None
        assert result.curated is not None
        told = {one.text: one.intent for one in result.split.train}
        right = {text: self.truth[text] for text in told}
        return Row(
            asked=size,
            teacher=teacher.name,
            captured=captured,
            dropped=sum(result.curated.dropped.values()),
            trained=len(told),
            noise=sum(told[text] != right[text] for text in told) / len(told),
            student=self._accuracy(told),
            gold=self._accuracy(right),
        )

    def _capture(self, folder: Path, questions: Sequence[Example], teacher: Teacher) -> int:
        (folder / "key").write_text(new_key())
        settings = CaptureSettings(
            enabled=True,
            directory=folder / "captured",
            key_file=folder / "key",
            max_waiting=MAX_WAITING,
        )
        with Capture(settings) as capture:
            for item in questions:
                body = classify_body(self.escalation, self.labels, item.text)
                for seed in range(teacher.answers):
                    said = self.oracle.answer(body, Behaviour(seed=seed, wrong=teacher.wrong))
                    capture.offer("stand-in", _call(body), body, completion(said.text))
        return len(questions) * teacher.answers

    def _accuracy(self, told: Mapping[str, str]) -> float:
        places = {label: at for at, label in enumerate(self.labels)}
        features = np.array([self.features[text] for text in told], np.float64)
        weights, bias = fit_head(
            features, np.array([places[label] for label in told.values()]), len(places)
        )
        shown: Floats = np.array([self.features[item.text] for item in self.judged], np.float64)
        found = (shown @ weights + bias).argmax(axis=1)
        return float((found == [places[str(item.label)] for item in self.judged]).mean())


def _call(body: Mapping[str, object]) -> FrontierCall:
    return FrontierCall(
        body=body,
        payer=Payer("r", "t", "tenant", "intent"),
        order=(),
        prompt_tokens=1,
        max_output_tokens=40,
        reason="low-confidence",
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table of the page."""
    heads = ("questions", "frontier", "answers", "dropped", "trained on", "of those wrong",
             "student", "trained on the truth", "points lost")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---:|---|" + "---:|" * (len(heads) - 2)]
    lines += [
        f"| {row.asked} | {row.teacher} | {row.captured} | {row.dropped} | {row.trained} "
        f"| {row.noise:.1%} | {row.student:.1%} | {row.gold:.1%} "
        f"| {round(100 * (row.gold - row.student), 1) + 0.0:.1f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", type=Path, required=True, help="bundle of minilm-l6, int8")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("build/bench-cache"))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    lab = Lab(args.minilm, args.data, args.cache)
    rows = []
    for size in args.sizes:
        for teacher in TEACHERS:
            rows.append(lab.row(size, teacher))
            print(markdown(rows[-1:]).splitlines()[-1], flush=True)
    if args.markdown:
        args.markdown.write_text(markdown(rows))
    if args.json:
        report = {"rows": [asdict(row) for row in rows], "machine": describe_machine()}
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
