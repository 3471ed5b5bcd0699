"""An encoder session packs, runs and refuses as its contract says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle.manifest import EncoderGraph
from edge_runtime.core import EncoderModel
from edge_runtime.engine.encoder import EncoderSession, packed_feeds, padded_feeds
from edge_runtime.errors import BundleError, UsageError
from export_tools.encoder.export import build_variant, encoder_facts
from tests.support.encoders import LABELS, write_checkpoint

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EncoderGraph]:
    root = tmp_path_factory.mktemp("encoder")
    draft = build_variant(write_checkpoint(root / "source"), root, "int8")
    assert isinstance(draft.contract, EncoderGraph)
    return root / draft.graph, draft.contract


@pytest.fixture(scope="module")
def session(graph: tuple[Path, EncoderGraph]) -> EncoderSession:
    return EncoderSession(*graph, max_len=40, threads=1, max_run_tokens=100)


def test_rows_come_back_in_order_and_normalised(session: EncoderSession) -> None:
    model: EncoderModel = session
    batch = [[5, 6, 7], [9], [5, 6, 7, 8, 9, 10]]
    outputs = model.run(batch)
    assert outputs.shape == (3, model.width)
    np.testing.assert_allclose(np.linalg.norm(outputs, axis=1), 1, atol=1e-6)
    for row, tokens in zip(outputs, batch, strict=True):
        np.testing.assert_allclose(model.run([tokens])[0], row, atol=1e-6)


def test_a_later_run_leaves_earlier_outputs_alone(session: EncoderSession) -> None:
    first = session.run([[5, 6, 7]])
    kept = first.copy()
    session.run([[8, 9, 10]] * 5)
    np.testing.assert_array_equal(first, kept)


def test_an_empty_batch_gives_no_rows(session: EncoderSession) -> None:
    assert session.run([]).shape == (0, session.width)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ([[1], []], "without tokens"),
        ([[1] * 41], "41 tokens; this model takes 40"),
        ([[1] * 40, [1], [1]], "send smaller batches"),
    ],
)
def test_what_cannot_run_is_refused(
    session: EncoderSession, batch: list[list[int]], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        session.run(batch)


def test_a_graph_of_another_contract_is_refused(graph: tuple[Path, EncoderGraph]) -> None:
    padded = EncoderGraph(type="encoder-padded/1", width=graph[1].width)
    with pytest.raises(BundleError, match="encoder-padded/1"):
        EncoderSession(graph[0], padded, max_len=40, threads=1)


def test_a_classifier_gives_a_logit_a_label(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "source", labels=LABELS)
    draft = build_variant(checkpoint, tmp_path, "int8")
    assert isinstance(draft.contract, EncoderGraph)
    assert encoder_facts(checkpoint).labels == LABELS
    model = EncoderSession(tmp_path / draft.graph, draft.contract, max_len=40, threads=1)
    assert model.run([[4, 5], [6]]).shape == (2, len(LABELS))


def test_padding_points_to_a_rows_own_last_token() -> None:
    feeds = packed_feeds(np.arange(6), np.array([2, 1, 3]))
    assert feeds["pad_index"].tolist() == [[0, 1, 1], [2, 2, 2], [3, 4, 5]]
    assert feeds["unpad_index"].tolist() == [0, 1, 3, 6, 7, 8]
    assert feeds["lengths"].dtype == np.int32


def test_padded_inputs_hold_the_tokens_first() -> None:
    feeds = padded_feeds(np.array([7, 8, 9]), np.array([1, 2]), 4)
    assert feeds["input_ids"].tolist() == [[7, 4], [8, 9]]
    assert feeds["attention_mask"].tolist() == [[1, 0], [1, 1]]
