"""A bundle of a few kilobytes that a daemon really serves, and that knows nothing: for rehearsals.

It embeds a text as the componentwise maximum over its words, each a random vector.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.digests import bundle_digest, model_digest
from edge_runtime.bundle.files import RealFiles, make_dirs
from edge_runtime.bundle.manifest import SCHEMA, Manifest
from edge_runtime.bundle.pack import pack
from fleet.publish.initial import initialise
from fleet.publish.publish import Publisher
from fleet.publish.repository import Repository
from fleet.simulator.world import NO_FLAWS, Bundle, Flaws

WORDS: Final = ("[PAD]", "[UNK]", "hello", "world", "edge", "box")
WIDTH: Final = 8
GOLDEN_INPUT: Final = "hello"
_OPSET: Final = 21
_IR: Final = 10

Floats = npt.NDArray[np.float32]


def write_tiny_bundle(
    directory: Path, name: str, release: int, *, right_golden: bool = True
) -> Manifest:
    """Make a bundle at `directory`, which must not exist; its bytes follow from name and release.

    Without `right_golden` it promises another answer than it gives, and boxes refuse it.
    """
    files = RealFiles()
    make_dirs(files, directory / "int8")
    table = np.random.default_rng([release, *name.encode()]).random((len(WORDS), WIDTH), np.float32)
    content = {
        "int8/model.onnx": _graph(),
        "int8/model.onnx_data": table.tobytes(),
        "tokenizer.json": json.dumps(_tokenizer()).encode(),
    }
    for path, data in content.items():
        files.create(directory / path)
        files.append(directory / path, data)
    row = table[WORDS.index(GOLDEN_INPUT)]
    promised = row / np.linalg.norm(row) if right_golden else -row
    variant = {
        "name": "int8",
        "dtype": "int8",
        "graph": "int8/model.onnx",
        "files": ["int8/model.onnx", "int8/model.onnx_data"],
        "contract": {"type": "encoder-packed/1", "width": WIDTH, "normalized": True},
        "onnxruntime_floor": "1.20.0",
        "opset": _OPSET,
        "ir": _IR,
        "size_bytes": table.nbytes,
    }
    draft: dict[str, object] = {
        "schema": SCHEMA,
        "name": name,
        "version": f"{release}.0.0",
        "release": release,
        "kind": "embed",
        "variants": [variant],
        "tokenizer": {"file": "tokenizer.json", "pad_token_id": 0},
        "licence": "Apache-2.0",
        "source": {"id": "example/tiny", "revision": "main", "sha256": "0" * 64},
        "recipe_digest": "1" * 64,
        "gate": {"min_cosine": 0.99, "cosine_p1": 0.9931},
        "context": 16,
        "golden": [
            {
                "input": GOLDEN_INPUT,
                "answer": [round(float(value), 5) for value in promised[:2]],
                "tolerance": 0.01,
            }
        ],
    }
    return pack(directory, draft, files)


def publish_two(directory: Path, name: str, flaws: Flaws = NO_FLAWS) -> tuple[Bundle, Bundle]:
    """`publish_releases` of a flawless one and one with `flaws`."""
    old, new = publish_releases(directory, name, (NO_FLAWS, flaws))
    return old, new


def publish_releases(directory: Path, name: str, flaws: Sequence[Flaws]) -> tuple[Bundle, ...]:
    """Make keys, a repository and a release of a tiny bundle for each of `flaws`.

    `directory` gets `keys`, `repository` and `build-1` and so on. One that every simulated box
    refuses promises a wrong golden answer, so real ones refuse it too. Blocks on the disk. Raises
    `ConfigError` where a repository is there already.
    """
    now = datetime.now(UTC)
    repository = Repository(directory / "repository")
    ring = initialise(repository, directory / "keys", now=now, models=[name])
    publisher = Publisher(repository, ring, now)
    made = []
    for release, wrong in enumerate(flaws, 1):
        folder = directory / f"build-{release}"
        right = wrong.refused_share < 1
        manifest = write_tiny_bundle(folder, name, release, right_golden=right)
        publisher.bundle(folder)
        digests = bundle_digest(manifest), model_digest(manifest, "int8")
        made.append(Bundle(*digests, manifest.version, release, wrong))
    return tuple(made)


def _tokenizer() -> dict[str, Any]:
    """Words between blanks; what is no word of the list is `[UNK]`."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(WORDS)},
            "unk_token": "[UNK]",
        },
    }


def _graph() -> bytes:
    """`encoder-packed/1`: gather the words' vectors, pad, maximum, length 1.

    Padding repeats a sequence's last token, which changes no maximum.
    """
    from onnx import TensorProto, helper  # noqa: PLC0415 - only rehearsals need it

    inputs = {
        "input_ids": (TensorProto.INT64, ["T"]),
        "pad_index": (TensorProto.INT64, ["B", "S"]),
        "unpad_index": (TensorProto.INT64, ["T"]),
        "lengths": (TensorProto.INT32, ["B"]),
    }
    table = TensorProto(name="words", data_type=TensorProto.FLOAT, dims=[len(WORDS), WIDTH])
    table.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "model.onnx_data"), ("length", str(4 * len(WORDS) * WIDTH))):
        table.external_data.add(key=key, value=value)
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["words", "input_ids"], ["packed"]),
            helper.make_node("Gather", ["packed", "pad_index"], ["padded"]),
            helper.make_node("ReduceMax", ["padded", "axis"], ["largest"], keepdims=0),
            helper.make_node("LpNormalization", ["largest"], ["output"], axis=-1, p=2),
        ],
        "tiny",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["B", WIDTH])],
        [table, axis],
    )
    model = helper.make_model(
        graph, ir_version=_IR, opset_imports=[helper.make_opsetid("", _OPSET)]
    )
    return bytes(model.SerializeToString())
