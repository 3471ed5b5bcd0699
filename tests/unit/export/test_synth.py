"""Synthetic checkpoints: same seed, same bytes; the tokenizer covers its whole vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_runtime.errors import UsageError
from export_tools import synth
from export_tools.decoder.config import parse_config
from export_tools.decoder.tensors import check_tensors
from export_tools.weights import Checkpoint

TEXT = "The quick brown fox: 12 + 30 = 42!\nGrüße, 世界 🦊"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A geometry small enough for a unit test."""
    tiny = {
        **synth.GEOMETRIES["smollm2-135m"],
        "num_hidden_layers": 4,
        "hidden_size": 48,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "vocab_size": 2000,
    }
    monkeypatch.setitem(synth.GEOMETRIES, "tiny", tiny)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synth.synthesize("tiny", tmp_path / name, seed=seed)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_the_checkpoint_is_whole_and_its_depth_can_be_cut(tmp_path: Path) -> None:
    directory = synth.synthesize("tiny", tmp_path / "x", layers=2)
    config = parse_config(json.loads((directory / "config.json").read_text()))
    checkpoint = Checkpoint(directory)
    check_tensors(config, checkpoint)
    assert config.layers == 2
    embedding = np.concatenate(list(checkpoint.matrix("model.embed_tokens.weight").blocks()))
    assert float(embedding.std()) == pytest.approx(0.02, rel=0.02)
    assert float(np.abs(embedding.mean())) < 5e-4
    np.testing.assert_array_equal(checkpoint.vector("model.norm.weight"), 1.0)


@pytest.mark.parametrize("vocab", [259, 2000, 49152])
def test_the_tokenizer_decodes_every_id_and_every_text(tmp_path: Path, vocab: int) -> None:
    synth.write_tokenizer(tmp_path, vocab)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == vocab
    assert all(tokenizer.id_to_token(index) for index in range(vocab))
    encoded = tokenizer.encode(TEXT)
    assert tokenizer.decode(encoded.ids) == TEXT
    assert tokenizer.encode("<|im_end|>").ids == [vocab - 1]
    if vocab > 10000:
        assert len(encoded.ids) < len(TEXT.encode())


@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.2-1b", "smollm2-135m"])
def test_geometries_can_be_exported(name: str) -> None:
    config = parse_config(synth.GEOMETRIES[name])
    assert config.tied
    assert config.layers >= 16


def test_unknown_geometries_name_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"llama-3\.2-1b"):
        synth.synthesize("gpt-5", tmp_path / "x")
