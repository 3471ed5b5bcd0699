"""Checkpoints: every float source reads the same, and damaged files are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import BundleError
from export_tools.quant import rows as rows_module
from export_tools.weights import Checkpoint, weights_digest
from tests.support.decoders import write_safetensors

VALUES = np.array([[0.5, -1.25, 3.0], [1024.0, -0.0078125, 0.0]], np.float32)  # exact in BF16


def bf16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("convert", [np.asarray, lambda x: x.astype(np.float16), bf16])
def test_every_float_dtype_reads_as_float32(tmp_path: Path, convert: Any) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": convert(VALUES)})
    matrix = Checkpoint(tmp_path).matrix("w")
    assert (matrix.rows, matrix.cols) == (2, 3)
    np.testing.assert_array_equal(np.concatenate(list(matrix.blocks())), VALUES)


def test_large_matrices_come_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 3 * 4 * 5)
    table = np.arange(33, dtype=np.float32).reshape(11, 3)
    write_safetensors(tmp_path / "model.safetensors", {"w": table})
    blocks = list(Checkpoint(tmp_path).matrix("w").blocks())
    assert [len(block) for block in blocks] == [5, 5, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), table)


def test_progress_names_tensors_and_adds_up(tmp_path: Path) -> None:
    heard: list[tuple[str, int]] = []

    class Listener:
        def begin(self, task: str, total_bytes: int) -> None: ...

        def advance(self, tensor: str, done_bytes: int) -> None:
            heard.append((tensor, done_bytes))

    write_safetensors(tmp_path / "model.safetensors", {"w": VALUES, "b": VALUES[0].copy()})
    checkpoint = Checkpoint(tmp_path, Listener())
    list(checkpoint.matrix("w").blocks())
    np.testing.assert_array_equal(checkpoint.vector("b"), VALUES[0])
    assert heard == [("w", 24), ("b", 12)]
    assert checkpoint.total_bytes == 36


def write_shards(directory: Path, mapping: dict[str, str]) -> None:
    write_safetensors(directory / "a.safetensors", {"w": VALUES})
    write_safetensors(directory / "b.safetensors", {"v": VALUES * 2})
    index = {"metadata": {}, "weight_map": mapping}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    write_shards(tmp_path, {"w": "a.safetensors", "v": "b.safetensors"})
    checkpoint = Checkpoint(tmp_path)
    assert sorted(checkpoint.tensors) == ["v", "w"]
    np.testing.assert_array_equal(next(checkpoint.matrix("v").blocks()), VALUES * 2)


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"w": "b.safetensors", "v": "a.safetensors"}, "does not fit the files for: v, w"),
        ({"w": "a.safetensors", "v": "c.safetensors"}, "names c.safetensors, which is not there"),
        ({"w": "../a.safetensors"}, "outside its directory"),
        ({"w": "a.safetensors"}, None),
    ],
)
def test_an_index_must_fit(tmp_path: Path, mapping: dict[str, str], reason: str | None) -> None:
    write_shards(tmp_path, mapping)
    if reason is None:
        assert sorted(Checkpoint(tmp_path).tensors) == ["w"]
        return
    with pytest.raises(BundleError) as caught:
        Checkpoint(tmp_path)
    assert reason in str(caught.value)


def test_no_safetensors_says_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match="only safetensors"):
        Checkpoint(tmp_path)


def header_file(directory: Path, header: object, data: bytes = b"\0" * 24) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = len(raw).to_bytes(8, "little") + raw + data
    (directory / "model.safetensors").write_bytes(content)


def spec(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"{", "unreadable header"),
        (b"[]", "unreadable header"),
        (spec(data_offsets=[0, 25]), "size does not fit"),
        (spec(data_offsets=[8, 32]), "outside the file"),
        (spec(data_offsets=[-8, 16]), "negative extent"),
        (spec(shape=[3, 3]), "size does not fit"),
        ({**spec(), "v": spec()["w"]}, "overlaps"),
        ({"w": {"dtype": "F32"}}, "unreadable header"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, header: object, reason: str) -> None:
    header_file(tmp_path, header)
    with pytest.raises(BundleError, match=r"model\.safetensors") as caught:
        Checkpoint(tmp_path)
    assert reason in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"abc", (2**60).to_bytes(8, "little") + b"{}"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match="no safetensors file"):
        Checkpoint(tmp_path)


def test_integer_weights_are_refused_by_name(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": VALUES.astype(np.int8)})
    with pytest.raises(BundleError, match="w is I8; export from a checkpoint in F32"):
        Checkpoint(tmp_path).matrix("w")


def test_digest_of_one_file_is_its_own_and_of_many_depends_on_names(tmp_path: Path) -> None:
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"abc")
    two.write_bytes(b"abd")
    plain = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights_digest([one]) == plain
    both = weights_digest([two, one])
    assert both == weights_digest([one, two])
    two.rename(tmp_path / "c")
    assert both != weights_digest([one, tmp_path / "c"])
