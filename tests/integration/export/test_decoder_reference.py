"""The graph answers as transformers does, for every architecture the exporter builds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from export_tools.decoder import build_variant  # noqa: E402
from tests.support.decoders import GraphRunner, run_chunks  # noqa: E402

pytestmark = pytest.mark.torch

VOCAB = 301
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 112,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("Llama", {"num_key_value_heads": 4}),
    "llama3": (
        "Llama",
        {"rope_theta": 5e5, "rope_scaling": LLAMA3, "tie_word_embeddings": True},
    ),
    "llama-biased-linear-rope": (
        "Llama",
        {
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 32,
        },
    ),
    "llama-yarn": ("Llama", {"rope_scaling": YARN}),
    "mistral-window": ("Mistral", {"sliding_window": 9, "head_dim": 32}),
    "mistral-full": ("Mistral", {"sliding_window": None}),
    "smollm2": (
        "Llama",
        {
            "hidden_size": 96,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
}
LENGTHS = (23, 17, 5, 0)
# Prefill, chunks, decode and idle rows share steps; the last slot is never used.
CHUNKS = ((7, 1, 0, 0), (9, 1, 2, 0), (1, 8, 1, 0), (6, 7, 2, 0))


class Case:
    """One architecture: a random checkpoint on disk and the reference's logits."""

    def __init__(self, name: str, directory: Path) -> None:
        family, changes = CASES[name]
        torch.manual_seed(3)
        config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes})
        model = (
            getattr(transformers, f"{family}ForCausalLM")
            ._from_config(config, attn_implementation="eager")
            .eval()
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # biases and norms start as constants that hide mistakes
                    parameter.add_(torch.randn_like(parameter) * 0.2)
            rng = np.random.default_rng(5)
            self.sequences = [rng.integers(0, VOCAB, length).tolist() for length in LENGTHS]
            self.expected = [
                model(torch.tensor([sequence])).logits[0].numpy() if sequence else None
                for sequence in self.sequences
            ]
        self.directory = directory
        model.save_pretrained(directory)

    @cache  # noqa: B019 - lives as long as the module's fixture
    def graph(self, variant: str) -> Path:
        draft = build_variant(self.directory, self.directory, variant)
        return self.directory / draft.graph


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def _worst(case: Case, found: list[np.ndarray]) -> float:
    return max(
        float(np.abs(logits - expected).max())
        for logits, expected in zip(found, case.expected, strict=True)
        if expected is not None
    )


def test_fp32_chunks_decodes_and_idle_rows_match(case: Case) -> None:
    runner = GraphRunner(case.graph("fp32"), slots=4, capacity=48)
    assert _worst(case, run_chunks(runner, case.sequences, CHUNKS)) <= 1e-4


def test_fp32_whole_prompts_match(case: Case) -> None:
    runner = GraphRunner(case.graph("fp32"), slots=4, capacity=48)
    assert _worst(case, run_chunks(runner, case.sequences, [LENGTHS])) <= 1e-4


def test_fp32_token_by_token_matches(case: Case) -> None:
    runner = GraphRunner(case.graph("fp32"), slots=4, capacity=48)
    steps = [tuple(int(step < length) for length in LENGTHS) for step in range(max(LENGTHS))]
    assert _worst(case, run_chunks(runner, case.sequences, steps)) <= 1e-4


@pytest.mark.parametrize(("variant", "floor"), [("int8", 0.99), ("int8-blocks", 0.99)])
def test_eight_bits_stay_close(case: Case, variant: str, floor: float) -> None:
    runner = GraphRunner(case.graph(variant), slots=4, capacity=48)
    found = run_chunks(runner, case.sequences, CHUNKS)
    rows = np.concatenate([logits for logits in found if len(logits)])
    wanted = np.concatenate([logits for logits in case.expected if logits is not None])
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted, axis=1)
    assert float(((rows * wanted).sum(axis=1) / norms).mean()) >= floor


def test_int8_answers_alone_as_in_company(case: Case) -> None:
    alone = GraphRunner(case.graph("int8"), slots=1, capacity=48)
    company = GraphRunner(case.graph("int8"), slots=4, capacity=48)
    expected = run_chunks(alone, case.sequences[:1], [chunk[:1] for chunk in CHUNKS])[0]
    found = run_chunks(company, case.sequences, CHUNKS)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
