"""`edge-export rightsize` on tiny real bundles: an encoder in two variants, and a decoder."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_runtime.core import Kind
from edge_runtime.errors import UsageError
from export_tools.build import Identity, Request, build
from export_tools.certify.classifier import EncoderBundle
from export_tools.certify.issue import Terms
from export_tools.certify.traffic import Example
from export_tools.cli import app
from export_tools.rightsize.choose import Standing, Wanted
from export_tools.rightsize.command import RightsizeRequest, rightsize
from export_tools.rightsize.measure import (
    Candidate,
    Coverage,
    Job,
    Measured,
    candidates_in,
    measure,
    neighbour_errors,
)
from export_tools.rightsize.prefer import Prefer
from tests.support import encoders
from tests.support.encoders import LABELS
from tests.support.served import build_decoder, build_encoder, unchecked

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WORDS = ("light", "door", "heat", "music", "song", "kitchen", "hall", "off", "on", "now", "later")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    source = encoders.write_checkpoint(folder / "source", labels=LABELS)
    request = Request(source, folder / "tiny", Identity("tiny"), variants=("int8", "fp32"))
    build(request, gate=unchecked)
    return folder / "tiny"


@pytest.fixture(scope="module")
def data(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the float model says is right, but where it is unsure."""
    generator = np.random.default_rng(1)
    texts = sorted({" ".join(generator.choice(WORDS, generator.integers(2, 9)))
                    for _ in range(400)})  # fmt: skip
    logits = EncoderBundle.open(bundle, "fp32", threads=1).outputs(texts)
    two = np.sort(logits, axis=1)
    weak = two[:, -1] - two[:, -2] < np.quantile(two[:, -1] - two[:, -2], 0.25)
    rows = [
        {"text": text, "intent": LABELS[(int(best) + int(unsure)) % 3]}
        for text, best, unsure in zip(texts, logits.argmax(axis=1), weak, strict=True)
    ]
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def request_(bundle: Path, data: Path) -> RightsizeRequest:
    return RightsizeRequest(
        (bundle,), (data,), "lights", Terms(0.1, 0.1, 1), Wanted(margin=0.1), timed=5, threads=1
    )


def test_variants_are_measured_and_the_small_one_taken(
    request_: RightsizeRequest, tmp_path: Path
) -> None:
    heard: list[str] = []
    result = rightsize(replace(request_, out=tmp_path / "out"), NOW, run=measure, told=heard.append)
    small, large = result.rows()
    assert heard == ["tiny@1 int8", "tiny@1 fp32"]
    assert small["chosen"]
    assert small["size_bytes"] < large["size_bytes"]
    assert large["quality"] == pytest.approx(0.75, abs=0.01)
    assert small["quality_low"] < small["quality"] < small["quality_high"]
    assert 0.3 < large["coverage"] < 0.9
    assert 0 < small["median_ms"] <= small["p95_ms"]
    report = json.loads((tmp_path / "out" / "rightsize.json").read_text())
    assert report["why"] == result.choice.why
    assert [row["name"] for row in report["candidates"]] == heard
    assert "<svg" in (tmp_path / "out" / "rightsize.svg").read_text()
    assert len((tmp_path / "out" / "rightsize.md").read_text().splitlines()) == 4


def test_models_that_write_are_judged_by_their_json(tmp_path: Path) -> None:
    bundle = build_decoder(tmp_path)
    rows = [{"text": f"say {n}", "answer": {"n": n}} for n in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    request = RightsizeRequest(
        (bundle,), (path,), "say", Terms(0.1, 0.1, 1), Wanted(floor=0.5), timed=5, threads=1
    )
    result = rightsize(request, NOW, run=measure)
    (row,) = result.rows()
    assert row["quality"] == 0  # random weights write no JSON
    assert row["tokens_per_s"] > 0
    assert row["coverage"] is None
    assert "cannot fit the score" in row["uncertified"]
    assert result.choice.chosen is None
    assert row["standing"] == Standing.WORSE


def test_embeddings_are_judged_by_their_neighbours(tmp_path: Path) -> None:
    bundle = build_encoder(tmp_path)
    (candidate,) = candidates_in([bundle], [])
    texts = [f"{word} {word}" for word in WORDS for _ in range(2)]
    examples = tuple(Example(text, text.split()[0]) for text in texts)
    job = Job(examples, (), None, "t", Terms(0.1, 0.1, 1), NOW, timed=5, threads=1)
    found = measure(candidate, job)
    assert not any(found.wrong)  # each text is there twice
    assert found.coverage == Coverage(None, "embeddings have no certificate")
    other = tuple(replace(one, label=str(at)) for at, one in enumerate(examples))
    assert all(measure(candidate, replace(job, data=other)).wrong)


def test_what_a_model_cannot_take_is_wrong() -> None:
    vectors = {"a": np.array([1.0, 0.0], np.float32), "b": np.array([0.9, 0.1], np.float32)}
    examples = [Example("a", "x"), Example("long", "x"), Example("b", "x")]
    assert neighbour_errors(vectors, examples).tolist() == [False, True, False]
    assert neighbour_errors({}, examples).all()


def test_what_should_be_small_decides(request_: RightsizeRequest) -> None:
    def run(candidate: Candidate, job: Job) -> Measured:
        slow = candidate.variant == "int8"
        wrong = (False,) * len(job.data)
        return Measured(wrong, Coverage(None), 100 + slow, 1.0 + slow, 2.0 + slow, None)

    chosen = {
        prefer: rightsize(replace(request_, prefer=prefer), NOW, run=run).choice.chosen
        for prefer in Prefer
    }
    assert chosen == {Prefer.SIZE: 0, Prefer.MEMORY: 1, Prefer.TIME: 1}


def test_what_cannot_be_compared_is_refused(
    request_: RightsizeRequest, bundle: Path, tmp_path: Path
) -> None:
    embedder = build_encoder(tmp_path, name="other")
    with pytest.raises(UsageError, match="one kind at a time"):
        candidates_in([bundle, embedder], [])
    with pytest.raises(UsageError, match="named twice"):
        candidates_in([bundle, bundle], [])
    with pytest.raises(UsageError, match="no bundle has a variant int4"):
        candidates_in([bundle], ["int4"])
    assert [one.kind for one in candidates_in([bundle], ["fp32"])] == [Kind.CLASSIFY]
    few = tmp_path / "few.jsonl"
    few.write_text('{"text": "a", "intent": "b"}\n')
    with pytest.raises(UsageError, match="tell no candidates apart"):
        rightsize(replace(request_, data=(few,)), NOW, run=measure)
    with pytest.raises(UsageError, match="exists"):
        rightsize(replace(request_, out=tmp_path), NOW, run=measure)


def test_the_command_runs_each_candidate_in_its_own_process(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    call = ["rightsize", str(bundle), "--data", str(data), "--task", "lights", "--variant", "int8"]
    call += ["--margin", "0.1", "--timed", "5", "--threads", "1", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "the smallest that is shown to have a loss" in done.output
    assert "tiny@1 int8: chosen" in done.output
    assert "MB of memory" in done.output
    (row,) = json.loads((tmp_path / "out" / "rightsize.json").read_text())["candidates"]
    assert row["memory_bytes"] > 0
    few = tmp_path / "few.jsonl"
    few.write_text(data.read_text().replace(LABELS[0], "unheard"))
    refused = CliRunner().invoke(app, [*call[:3], str(few), *call[4:-2]])
    assert refused.exit_code == 1
    assert "lacks: unheard" in refused.output
