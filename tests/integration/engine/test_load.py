"""A bundle is served only when it answers right on this box."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle.pack import load_manifest
from edge_runtime.core import GenerateRequest, SamplingParams
from edge_runtime.engine.decode_worker import DecodeWorker, Event
from edge_runtime.engine.encode_worker import EncodeWorker
from edge_runtime.errors import BundleError, EdgeError
from tests.support.served import (
    CONTEXT,
    build_decoder,
    build_encoder,
    change_manifest,
    load,
    make_settings,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    build_decoder(root)
    build_encoder(root)
    build_encoder(root, name="tiny-labels", labels=("yes", "no", "maybe"))
    return root


@pytest.fixture
def bundle(built: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the bundle that the test names, to change."""
    name = getattr(request, "param", "tiny")
    shutil.copytree(built / name, tmp_path / name)
    return tmp_path / name


def answer(bundle: Path, prompt: str) -> tuple[list[int], str]:
    """What the model says to one user message, greedily: tokens and text."""
    loaded = load(bundle)
    worker = loaded.worker
    assert isinstance(worker, DecodeWorker)
    events: list[Event] = []
    worker.deliver = events.extend
    tokens = loaded.codec.apply_chat_template([{"role": "user", "content": prompt}])
    params = SamplingParams(max_tokens=12, temperature=0.0)
    worker.submit(GenerateRequest("x", "tiny", tuple(tokens), params))
    while worker.turn():
        pass
    ids = [event.token_id for _, event in events if event.token_id is not None]
    return ids, "".join(event.text for _, event in events)


def test_a_loaded_decoder_says_what_it_is(bundle: Path) -> None:
    loaded = load(bundle)
    assert loaded.info.context_tokens == CONTEXT
    assert loaded.info.has_chat_template
    assert loaded.info.full_name == "tiny@1"
    assert isinstance(loaded.worker, DecodeWorker)
    assert loaded.worker.limits.slots == 4
    assert not loaded.worker.busy


def test_a_wrong_golden_answer_is_refused(bundle: Path) -> None:
    change_manifest(bundle, golden=[{"input": "hello", "answer": "not what it says"}])
    with pytest.raises(BundleError, match=r"golden input 'hello' gives .* not 'not what it says'"):
        load(bundle)


def test_right_golden_answers_pass(bundle: Path) -> None:
    ids, _ = answer(bundle, "hello")
    tokenizer = load_manifest(bundle).tokenizer.model_dump(mode="json")
    # From now on the fifth token that the random model says ends its answers.
    change_manifest(bundle, tokenizer={**tokenizer, "eos_token_ids": [ids[4]]})
    shorter, text = answer(bundle, "hello")
    assert len(shorter) <= 5
    change_manifest(bundle, golden=[{"input": "hello", "answer": text}])
    assert load(bundle).info.name == "tiny"


@pytest.mark.parametrize("bundle", ["tiny-encoder"], indirect=True)
def test_embeddings_are_checked_to_their_tolerance(bundle: Path) -> None:
    worker = load(bundle).worker
    assert isinstance(worker, EncodeWorker)
    codec = load(bundle).codec
    future = worker.submit([codec.encode("hello", add_special_tokens=True)])
    worker.turn(beside_decoder=False)
    right = [float(value) for value in future.result(timeout=0)[0][:4]]
    golden: dict[str, Any] = {"input": "hello", "answer": right, "tolerance": 1e-4}
    change_manifest(bundle, golden=[golden])
    assert load(bundle).info.output_width == 64
    change_manifest(bundle, golden=[{**golden, "answer": [right[0] + 0.01, *right[1:]]}])
    with pytest.raises(BundleError, match="golden input 'hello'"):
        load(bundle)


@pytest.mark.parametrize("bundle", ["tiny-labels"], indirect=True)
def test_labels_are_checked(bundle: Path) -> None:
    loaded = load(bundle)
    worker = loaded.worker
    assert isinstance(worker, EncodeWorker)
    assert loaded.info.labels == ("yes", "no", "maybe")
    future = worker.submit([loaded.codec.encode("hello", add_special_tokens=True)])
    worker.turn(beside_decoder=False)
    right = loaded.info.labels[int(np.argmax(future.result(timeout=0)[0]))]
    wrong = next(label for label in loaded.info.labels if label != right)
    change_manifest(bundle, golden=[{"input": "hello", "answer": right}])
    assert load(bundle).info.kind == "classify"
    change_manifest(bundle, golden=[{"input": "hello", "answer": wrong}])
    with pytest.raises(BundleError, match=f"gives '{right}' on this box, not '{wrong}'"):
        load(bundle)


def _variant(bundle: Path, **changes: Any) -> None:
    document = load_manifest(bundle).document()
    variants = document["variants"]
    change_manifest(bundle, variants=[{**variants[0], **changes}])  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"onnxruntime_floor": "99.1.0"}, "needs onnxruntime 99.1.0, this box has"),
        ({"cpu_features": ["sme9"]}, "sme9"),
    ],
)
def test_what_this_box_cannot_run_is_refused(
    bundle: Path, changes: dict[str, Any], reason: str
) -> None:
    _variant(bundle, **changes)
    with pytest.raises(BundleError, match=reason):
        load(bundle)


def test_settings_choose_variant_context_and_slots(bundle: Path, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    options = {"tiny": {"context_tokens": 40, "slots": 2, "max_output_tokens": 9}}
    chosen = type(settings).model_validate(
        {**settings.model_dump(), "models": {"options": options}}
    )
    loaded = load(bundle, chosen)
    assert isinstance(loaded.worker, DecodeWorker)
    assert (loaded.worker.limits.max_len, loaded.worker.limits.slots) == (40, 2)
    assert loaded.info.max_output_tokens == 9
    missing = type(settings).model_validate(
        {**settings.model_dump(), "models": {"options": {"tiny": {"variant": "int3"}}}}
    )
    with pytest.raises(BundleError, match=r"no variant 'int3'; set models\.options\.tiny\.variant"):
        load(bundle, missing)


def test_a_truncated_graph_is_refused(bundle: Path) -> None:
    for graph in bundle.rglob("*.onnx"):
        graph.write_bytes(graph.read_bytes()[:100])
    with pytest.raises(EdgeError):
        load(bundle)
