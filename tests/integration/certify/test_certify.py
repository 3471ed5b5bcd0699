"""`edge-export certify` on a real INT8 bundle: what it writes, prints and refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_runtime.bundle.certificate import Certificate, Context, Valid, judge, open_certificate
from edge_runtime.bundle.digests import model_digest
from edge_runtime.bundle.envelope import key_id, read_public_key, trust
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.errors import BundleError, ConfigError, UsageError
from edge_runtime.stats.scores import VERSIONS, classifier_scores
from export_tools.certify.classifier import EncoderBundle
from export_tools.certify.command import SALT, CertifyRequest, certify, keygen
from export_tools.certify.issue import Errors, Floats, Terms
from export_tools.certify.scorers import ClassifierScorer
from export_tools.certify.traffic import Example, Half, half, read_examples
from export_tools.cli import app
from tests.support.encoders import LABELS
from tests.support.served import build_encoder

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WORDS = ("light", "door", "heat", "music", "song", "kitchen", "hall", "off", "on", "now", "later")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("classifier"), labels=LABELS)


@pytest.fixture(scope="module")
def labelled(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files in and out of scope. The model is right but where its margin is small: a random
    model has no opinion of its own that would be worth anything.
    """
    generator = np.random.default_rng(1)
    texts = sorted({" ".join(generator.choice(WORDS, generator.integers(2, 9)))
                    for _ in range(1500)})  # fmt: skip
    logits = EncoderBundle.open(bundle, "int8", threads=1).outputs(texts)
    scores = classifier_scores("margin", logits)
    best = logits.argmax(axis=1)
    weak = scores < np.quantile(scores, 0.35)
    root = tmp_path_factory.mktemp("data")
    rows, outside = [], []
    for text, label, unsure in zip(texts, best, weak, strict=True):
        if unsure and len(outside) < 300:
            outside.append({"text": text})
        else:
            rows.append({"text": text, "intent": LABELS[(int(label) + int(unsure)) % 3]})
    inside, oos = root / "inside.jsonl", root / "oos.jsonl"
    inside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    oos.write_text("".join(json.dumps(row) + "\n" for row in outside))
    return inside, oos


@pytest.fixture
def request_(bundle: Path, labelled: tuple[Path, Path], tmp_path: Path) -> CertifyRequest:
    keygen(tmp_path / "key.pem")
    inside, oos = labelled
    return CertifyRequest(
        bundle=bundle,
        variant="int8",
        task="lights",
        data=(inside,),
        oos=(oos,),
        oos_share=0.18,
        score="margin",
        terms=Terms(alpha=0.05, delta=0.1, days=30),
        key=tmp_path / "key.pem",
        out=tmp_path / "cert.json",
        threads=1,
    )


def read(request: CertifyRequest) -> Certificate:
    public = read_public_key(Path(f"{request.key}.pub").read_bytes(), name="key")
    return open_certificate(request.out.read_bytes(), trust([public]))


def read_after(request: CertifyRequest) -> Certificate:
    certify(request, NOW)
    return read(request)


def test_a_certificate_is_signed_and_holds_for_this_artefact(request_: CertifyRequest) -> None:
    result = certify(request_, NOW)
    found = read(request_)
    assert found == result.certificate
    digest = model_digest(load_manifest(request_.bundle), "int8")
    assert judge(found, Context(digest, "lights", VERSIONS), NOW) == Valid()
    assert (found.issued, found.expires) == ("2026-03-01T00:00:00Z", "2026-03-31T00:00:00Z")
    assert found.auroc > 0.9
    assert 0.4 < found.coverage < 0.8
    assert result.report is not None
    assert abs(result.report.coverage - found.coverage) < 0.12
    assert result.report.error <= 0.1


def test_the_traffic_has_the_share_out_of_scope_that_was_asked(request_: CertifyRequest) -> None:
    found = certify(request_, NOW).certificate
    assert found is not None
    outside = int(found.traffic.split(",")[1].split()[0])
    assert outside / found.calibration_size == pytest.approx(0.18, abs=1 / found.calibration_size)


def test_it_says_whose_answers_it_was_held_against(request_: CertifyRequest) -> None:
    assert read_after(request_).reference == "gold"
    request_.out.unlink()
    assert read_after(replace(request_, reference="big-model")).reference == "big-model"


def test_the_same_data_give_the_same_certificate(request_: CertifyRequest, tmp_path: Path) -> None:
    first = certify(request_, NOW).certificate
    again = certify(replace(request_, out=tmp_path / "again.json"), NOW).certificate
    assert first is not None
    assert again == first
    assert request_.out.read_bytes() == (tmp_path / "again.json").read_bytes()


def test_what_reports_never_calibrates(request_: CertifyRequest) -> None:
    examples = read_examples(request_.data)
    calibrating = {item.text for item in half(examples, Half.CALIBRATE, salt=SALT)}
    reporting = {item.text for item in half(examples, Half.REPORT, salt=SALT)}
    assert not calibrating & reporting
    assert calibrating | reporting == {item.text for item in examples}
    assert 0.4 < len(calibrating) / len(examples) < 0.6


def test_a_learned_score_is_fitted_calibrated_and_reported_on_different_texts(
    request_: CertifyRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    class Recording(ClassifierScorer):
        def learn(self, examples: Sequence[Example]) -> None:
            seen.append({item.text for item in examples})

        def scored(self, examples: Sequence[Example]) -> tuple[Floats, Errors]:
            seen.append({item.text for item in examples})
            return super().scored(examples)

    bundle = EncoderBundle.open(request_.bundle, "int8", threads=1)
    scorer = Recording(bundle, "margin", learns=True)
    monkeypatch.setattr("export_tools.certify.command.open_scorer", lambda *_, **__: scorer)
    assert certify(request_, NOW).certificate is not None
    fitted, calibrated, reported = seen
    assert min(map(len, seen)) > 50
    assert len(fitted | calibrated | reported) == sum(map(len, seen))


def test_what_cannot_be_proved_is_not_written(request_: CertifyRequest) -> None:
    strict = replace(request_, terms=Terms(alpha=0.001, delta=0.01, days=30))
    result = certify(strict, NOW)
    assert result.certificate is None
    assert result.report is None
    assert not strict.out.exists()


def test_texts_too_long_for_the_model_are_left_out(
    request_: CertifyRequest, tmp_path: Path
) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"text": "door " * 400, "intent": LABELS[0]}) + "\n")
    result = certify(replace(request_, data=(*request_.data, long)), NOW)
    assert result.too_long == 1
    assert result.certificate is not None


@pytest.fixture
def refusals(request_: CertifyRequest, tmp_path: Path) -> Iterator[dict[str, CertifyRequest]]:
    alien = tmp_path / "alien.jsonl"
    alien.write_text('{"text": "x", "intent": "perhaps"}\n')
    flat = tmp_path / "flat.jsonl"
    flat.write_text('{"text": "x"}\n')
    taken = tmp_path / "taken.json"
    taken.write_text("mine")
    no_key = tmp_path / "no.pem"
    no_key.write_text("no key")
    yield {
        "exists": replace(request_, out=taken),
        "lacks: perhaps": replace(request_, data=(*request_.data, alien)),
        "flat.jsonl, line 1": replace(request_, data=(flat,)),
        "cannot be read": replace(request_, data=(tmp_path / "none.jsonl",)),
        "no variant 'int4'": replace(request_, variant="int4"),
        "known: margin": replace(request_, score="entropy"),
        "keygen": replace(request_, key=tmp_path / "none.pem"),
        "no unencrypted private key": replace(request_, key=no_key),
        "cannot make traffic": replace(request_, oos=()),
        "missing": replace(request_, bundle=tmp_path),
    }
    assert taken.read_text() == "mine"


@pytest.mark.parametrize(
    "reason",
    ["exists", "lacks: perhaps", "flat.jsonl, line 1", "cannot be read", "no variant 'int4'",
     "known: margin", "keygen", "no unencrypted private key", "cannot make traffic", "missing"],
)  # fmt: skip
def test_refusals_say_why_and_write_nothing(
    refusals: dict[str, CertifyRequest], reason: str
) -> None:
    request = refusals[reason]
    with pytest.raises((UsageError, BundleError, ConfigError), match=reason):
        certify(request, NOW)
    assert reason == "exists" or not request.out.exists()


def test_the_commands_go_hand_in_hand(
    bundle: Path, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    inside, oos = map(str, labelled)
    key, out = str(tmp_path / "k.pem"), str(tmp_path / "c.json")
    runner = CliRunner()
    made = runner.invoke(app, ["keygen", "--out", key])
    assert made.exit_code == 0
    assert (tmp_path / "k.pem").stat().st_mode & 0o777 == 0o600
    arguments = ["certify", "--bundle", str(bundle), "--task", "lights", "--data", inside,
                 "--oos", oos, "--traffic-oos", "0.18", "--key", key]  # fmt: skip
    done = runner.invoke(app, [*arguments, "--out", out])
    assert done.exit_code == 0, done.output
    assert "error <= 5.0% at confidence 90%" in done.output
    assert "on the other half: keeps" in done.output
    signer = json.loads(Path(out).read_text())["signatures"][0]["keyid"]
    public = read_public_key(Path(f"{key}.pub").read_bytes(), name="key")
    assert signer == key_id(public)
    assert runner.invoke(app, [*arguments, "--out", out]).exit_code == 1  # never over another
    hopeless = runner.invoke(app, [*arguments, "--alpha", "0.001", "--out", f"{out}.2"])
    assert hopeless.exit_code == 1
    assert "everything escalates" in hopeless.output
    assert not Path(f"{out}.2").exists()


def test_a_key_never_replaces_another(tmp_path: Path) -> None:
    keygen(tmp_path / "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    with pytest.raises(UsageError, match="exists"):
        keygen(tmp_path / "key.pem")
    (tmp_path / "key.pem.pub").unlink()
    with pytest.raises(UsageError, match="cannot be made"):
        keygen(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").read_bytes() == before
