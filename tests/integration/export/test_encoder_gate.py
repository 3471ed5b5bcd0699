"""The gates pass what is good, and end an export that is not, naming the figure."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_runtime.engine.offline import native_operators_run
from edge_runtime.errors import BundleError
from export_tools import decoder
from export_tools.draft import VariantDraft
from export_tools.encoder.export import build_variant
from export_tools.gate import DecoderLimits, EncoderLimits, gate_decoder, gate_encoder
from export_tools.gate.limits import enforce
from export_tools.gate.measures import agreement, cosines, mean_kl, top1_where_decided
from export_tools.samples import paragraphs, sentences
from tests.support import decoders, encoders


@pytest.fixture(autouse=True)
def without_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny checkpoints here are judged against their float32 graph only."""
    monkeypatch.setattr("export_tools.gate.source.is_installed", lambda: False)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, VariantDraft]:
    root = tmp_path_factory.mktemp("gated")
    source = encoders.write_checkpoint(root / "source", labels=encoders.LABELS)
    return source, root, build_variant(source, root, "int8")


def test_a_sound_encoder_passes_and_its_figures_are_told(
    encoder: tuple[Path, Path, VariantDraft],
) -> None:
    report = gate_encoder(*encoder, limits=EncoderLimits(agreement=0.9))
    assert report["figures"]["company_cosine"] >= report["limits"]["company_cosine"]
    assert 0.99 <= report["figures"]["cosine_p1"] <= 1
    assert report["limits"]["agreement"] == 0.9
    assert report["source_compared"] is False
    assert report["texts"] == len(sentences()) + len(paragraphs())


def test_a_missed_limit_names_file_figure_and_limit(
    encoder: tuple[Path, Path, VariantDraft],
) -> None:
    with pytest.raises(BundleError, match=r"int8/model\.onnx: cosine_p1 = .* below its limit 1"):
        gate_encoder(*encoder, limits=EncoderLimits(cosine_p1=1.0, agreement=0.0))


def test_weights_damaged_after_the_export_do_not_pass(
    encoder: tuple[Path, Path, VariantDraft], tmp_path: Path
) -> None:
    source, root, draft = encoder
    for name in draft.files:
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((root / name).read_bytes())
    data = tmp_path / "int8" / "model.onnx.data"
    damaged = bytearray(data.read_bytes())
    damaged[: len(damaged) // 2] = bytes(len(damaged) // 2)
    data.write_bytes(damaged)
    with pytest.raises(BundleError):
        gate_encoder(source, tmp_path, draft)


@pytest.mark.skipif(not native_operators_run(), reason="this machine runs no native graphs")
def test_the_native_graph_is_judged_as_well(
    encoder: tuple[Path, Path, VariantDraft], tmp_path: Path
) -> None:
    source, root, draft = encoder
    limits = EncoderLimits(agreement=0.9)
    report = gate_encoder(*encoder, limits=limits)
    assert 0.99 <= report["native"]["cosine_p1"] <= 1
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    assert draft.native_graph is not None
    model = onnx.load(tmp_path / draft.native_graph, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 10.0
    onnx.save(model, tmp_path / draft.native_graph)
    with pytest.raises(BundleError, match=r"model-native\.onnx: cosine_p1"):
        gate_encoder(source, tmp_path, draft, limits=limits)


@pytest.mark.parametrize("variant", ["int8", "fp32"])
def test_a_sound_decoder_passes(tmp_path: Path, variant: str) -> None:
    source = decoders.write_checkpoint(tmp_path / "source")
    draft = decoder.build_variant(source, tmp_path, variant)
    report = gate_decoder(source, tmp_path, draft)
    assert report["figures"]["company_error"] <= 1e-4
    assert report["figures"]["mean_kl"] <= 0.02
    if variant == "int8" and native_operators_run():
        assert report["native"]["company_error"] == 0
    with pytest.raises(BundleError, match="company_error"):
        gate_decoder(source, tmp_path, draft, limits=DecoderLimits(company_error=-1.0))


def test_what_is_not_a_number_does_not_pass() -> None:
    for name in dataclasses.asdict(DecoderLimits()):
        with pytest.raises(BundleError, match=name):
            enforce("g.onnx", DecoderLimits(), {name: float("nan")})


def test_measures_of_known_distributions() -> None:
    p = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
    q = np.log(np.array([[0.25, 0.5, 0.25]], np.float32))
    assert mean_kl(p, p) == pytest.approx(0)
    assert mean_kl(p, q) == pytest.approx(0.25 * np.log(2), rel=1e-5)
    assert agreement(p, q) == 0
    assert top1_where_decided(p, q) == 0
    flat = np.zeros((2, 3), np.float32)
    assert top1_where_decided(flat, flat) is None
    assert cosines(np.array([[3, 0]], np.float32), np.array([[3, 4]], np.float32)) == [0.6]
    assert np.isnan(cosines(flat, flat)).all()


def test_the_shipped_sentences_carry_their_licence(repository: Path) -> None:
    text = (repository / "export_tools" / "samples" / "sentences.txt").read_text("utf-8")
    assert "Creative Commons Attribution 3.0" in text
    assert len(set(sentences())) == 200
