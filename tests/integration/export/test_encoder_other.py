"""Encoders that only optimum can trace get our weight formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")

from edge_runtime.core import FloatArray  # noqa: E402
from edge_runtime.engine.offline import open_encoder  # noqa: E402
from export_tools.encoder.export import build_variant  # noqa: E402
from export_tools.gate.encoder import company_cosine  # noqa: E402
from export_tools.gate.measures import cosines  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

VOCAB = 400
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}
BATCH = [[2, 9, 17, 3], [2, 5, 99, 120, 350, 42, 7, 3], [2, 3]]


def checkpoint(family: str, kind: str, root: Path, **changes: Any) -> Any:
    torch.manual_seed(5)
    config = getattr(transformers, f"{family}Config")(**SIZES, **changes)
    model = getattr(transformers, family + kind)(config).eval()
    model.save_pretrained(root)
    return model


def embeddings(model: Any) -> FloatArray:
    rows = []
    with torch.inference_mode():
        for tokens in BATCH:
            mean = model(torch.tensor([tokens])).last_hidden_state[0].mean(dim=0)
            rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    ("family", "changes"), [("Electra", {"embedding_size": 32}), ("MPNet", {})]
)
def test_another_architecture_embeds_as_its_source(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = checkpoint(family, "Model", tmp_path / "source", **changes)
    expected = embeddings(model)
    for variant, least in (("fp32", 0.9999999), ("int8", 0.999)):
        draft = build_variant(tmp_path / "source", tmp_path / "out", variant)
        assert draft.contract.type == "encoder-padded/1"
        session = open_encoder(
            tmp_path / "out" / draft.graph, draft.contract, max_len=60, threads=1, pad_token_id=1
        )
        assert cosines(session.run(BATCH), expected).min() > least
        assert company_cosine(session, BATCH) >= 0.99999


def test_another_classifier_answers_as_its_source_and_holds_int8_weights(tmp_path: Path) -> None:
    model = checkpoint(
        "Electra", "ForSequenceClassification", tmp_path / "source", embedding_size=32, num_labels=4
    )
    with torch.inference_mode():
        expected = np.stack([model(torch.tensor([row])).logits[0].numpy() for row in BATCH])
    draft = build_variant(tmp_path / "source", tmp_path / "out", "int8")
    session = open_encoder(tmp_path / "out" / draft.graph, draft.contract, max_len=60, threads=1)
    np.testing.assert_allclose(session.run(BATCH), expected, atol=0.05)
    graph = onnx.load(tmp_path / "out" / draft.graph, load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 15  # 6 a layer, the projection, the head's 2
    assert "Gemm" not in kinds
