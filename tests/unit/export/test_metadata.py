"""What a checkpoint's small files become in a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import BundleError
from export_tools.metadata import CheckpointMetadata

VOCAB = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}},
    "added_tokens": [
        {"id": 2, "content": "<s>"},
        {"id": 3, "content": "</s>"},
        {"id": 4, "content": "<eot>"},
    ],
}


def metadata(directory: Path, **files: Any) -> CheckpointMetadata:
    for name, content in {"tokenizer": VOCAB, **files}.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return CheckpointMetadata(directory)


def _out(directory: Path) -> Path:
    (directory / "out").mkdir()
    return directory / "out"


def test_special_ids_come_from_every_file_that_names_them(tmp_path: Path) -> None:
    found = metadata(
        tmp_path,
        config={"eos_token_id": 3, "bos_token_id": 9, "pad_token_id": 4},
        generation_config={"eos_token_id": [4, 3]},
        tokenizer_config={"bos_token": {"content": "<s>"}, "eos_token": "</s>"},
    )
    tokenizer = found.copy_tokenizer(_out(tmp_path))
    assert tokenizer.bos_token_id == 2
    assert tokenizer.eos_token_ids == (4, 3)
    assert tokenizer.pad_token_id == 4


def test_a_token_set_to_null_stays_off(tmp_path: Path) -> None:
    found = metadata(tmp_path, config={"bos_token_id": 2}, tokenizer_config={"bos_token": None})
    assert found.copy_tokenizer(_out(tmp_path)).bos_token_id is None


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        (None, None),
    ],
)
def test_the_default_template_is_taken(
    tmp_path: Path, template: object, expected: str | None
) -> None:
    config = {"chat_template": template, "eos_token": "</s>"}
    out = tmp_path / "out"
    out.mkdir()
    section = metadata(tmp_path, tokenizer_config=config).copy_template(out)
    if expected is None:
        assert section is None
        return
    assert section is not None
    assert (section.bos_token, section.eos_token) == ("", "</s>")
    assert (out / section.file).read_text() == expected


def test_a_template_file_wins(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("own file")
    out = tmp_path / "out"
    out.mkdir()
    metadata(tmp_path, tokenizer_config={"chat_template": "inline"}).copy_template(out)
    assert (out / "chat_template.jinja").read_text() == "own file"


def test_sampling_defaults_are_taken_unless_the_authors_chose_greedy(tmp_path: Path) -> None:
    settings = {"temperature": 0.6, "top_k": 20, "top_p": True, "max_new_tokens": 9}
    sampled = metadata(tmp_path, generation_config=settings).sampling_defaults()
    assert sampled == {"temperature": 0.6, "top_k": 20.0}
    greedy = metadata(tmp_path, generation_config={**settings, "do_sample": False})
    assert greedy.sampling_defaults() == {"temperature": 0.0}


def test_damaged_files_are_named(tmp_path: Path) -> None:
    metadata(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(BundleError, match=r"generation_config\.json: is no JSON"):
        CheckpointMetadata(tmp_path)
