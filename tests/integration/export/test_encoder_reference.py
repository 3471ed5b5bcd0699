"""Encoder graphs answer as transformers does, for every architecture the exporter builds."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from edge_runtime.bundle.manifest import EncoderGraph  # noqa: E402
from edge_runtime.core import FloatArray  # noqa: E402
from edge_runtime.engine.offline import EncoderSession, open_encoder  # noqa: E402
from export_tools.encoder.export import build_variant, encoder_facts  # noqa: E402
from export_tools.gate.encoder import company_cosine  # noqa: E402
from export_tools.gate.measures import cosines  # noqa: E402

pytestmark = pytest.mark.torch

VOCAB = 211
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 66,
    "initializer_range": 0.2,
}
DISTILBERT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 128,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
LABELS = {index: f"label-{index}" for index in range(5)}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SIZES),
    "bert-relu": ("Bert", {**SIZES, "hidden_act": "relu"}),
    "bert-gelu-new": ("Bert", {**SIZES, "hidden_act": "gelu_new"}),
    "roberta": ("Roberta", {**SIZES, "pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", {**SIZES, "pad_token_id": 1, "type_vocab_size": 1}),
    "distilbert": ("DistilBert", DISTILBERT),
}
LENGTHS = (1, 17, 5, 30, 5, 2)


class Case:
    """A random checkpoint on disk and what its source answers to `batch`."""

    def __init__(self, name: str, task: str, root: Path) -> None:
        family, sizes = CASES[name]
        kind = "ForSequenceClassification" if task == "classify" else "Model"
        config = getattr(transformers, f"{family}Config")(
            **sizes, num_labels=len(LABELS), id2label=LABELS
        )
        torch.manual_seed(7)
        model = getattr(transformers, family + kind)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms start as 0 and 1
                parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(root)
        generator = np.random.default_rng(3)
        self.batch = [generator.integers(3, VOCAB, length).tolist() for length in LENGTHS]
        self.checkpoint = root
        with torch.inference_mode():
            self.outputs = [model(torch.tensor([row])) for row in self.batch]

    def logits(self) -> FloatArray:
        return np.stack([output.logits[0].numpy() for output in self.outputs])

    def pooled(self, mode: str) -> FloatArray:
        hidden = [output.last_hidden_state[0].numpy() for output in self.outputs]
        return np.stack([h.mean(axis=0) if mode == "mean" else h[0] for h in hidden])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def make(name: str, task: str) -> Case:
        return Case(name, task, tmp_path_factory.mktemp(f"{name}-{task}"))

    return make


def load(
    checkpoint: Path, out: Path, variant: str, task: Any = None
) -> tuple[EncoderSession, EncoderGraph]:
    draft = build_variant(checkpoint, out, variant, task=task)
    assert isinstance(draft.contract, EncoderGraph)
    facts = encoder_facts(checkpoint, task)
    session = open_encoder(out / draft.graph, draft.contract, max_len=facts.context, threads=1)
    return session, draft.contract


def normalized(rows: FloatArray) -> FloatArray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("name", CASES)
def test_embeddings_are_those_of_the_source(name: str, case: Any, tmp_path: Path) -> None:
    found = case(name, "embed")
    session, contract = load(found.checkpoint, tmp_path, "fp32")
    assert contract.pooling == "mean"
    assert contract.normalized
    outputs = session.run(found.batch)
    np.testing.assert_allclose(outputs, normalized(found.pooled("mean")), atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_source(name: str, case: Any, tmp_path: Path) -> None:
    found = case(name, "classify")
    session, contract = load(found.checkpoint, tmp_path, "fp32")
    assert (contract.pooling, contract.width) == ("none", len(LABELS))
    np.testing.assert_allclose(session.run(found.batch), found.logits(), atol=1e-5)
    assert encoder_facts(found.checkpoint).labels == tuple(LABELS.values())


def test_first_token_pooling_is_that_of_the_source(case: Any, tmp_path: Path) -> None:
    found = case("bert", "embed")
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for file in found.checkpoint.iterdir():
        (copy / file.name).symlink_to(file)
    (copy / "modules.json").write_text(
        json.dumps(
            [
                {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            ]
        )
    )
    (copy / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (copy / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    session, contract = load(copy, tmp_path / "out", "fp32")
    assert (contract.pooling, contract.normalized) == ("cls", False)
    np.testing.assert_allclose(session.run(found.batch), found.pooled("cls"), atol=1e-5)


@pytest.mark.parametrize("variant", ["int8", "int8-7bit", "int8-blocks", "int4"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_quantised_variants_stay_close_in_any_company(
    name: str, variant: str, case: Any, tmp_path: Path
) -> None:
    found = case(name, "embed")
    session, _ = load(found.checkpoint, tmp_path, variant)
    floor = 0.9 if variant == "int4" else 0.995
    assert cosines(session.run(found.batch), normalized(found.pooled("mean"))).min() > floor
    assert company_cosine(session, found.batch) >= 0.99999
