"""A bundle of a few kilobytes that is whole and valid, and no model: for rehearsals."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from edge_runtime.bundle.digests import bundle_digest, model_digest
from edge_runtime.bundle.files import RealFiles, make_dirs
from edge_runtime.bundle.manifest import SCHEMA, Manifest
from edge_runtime.bundle.pack import pack
from fleet.publish.initial import initialise
from fleet.publish.publish import Publisher
from fleet.publish.repository import Repository
from fleet.simulator.world import NO_FLAWS, Bundle, Flaws


def write_tiny_bundle(directory: Path, name: str, release: int) -> Manifest:
    """Make a bundle at `directory`, which must not exist; its bytes follow from name and release.

    It publishes and rolls out like any other; an engine refuses to load it.
    """
    files = RealFiles()
    make_dirs(files, directory / "int8")
    weights = b"".join(
        hashlib.sha256(f"{name}/{release}/{block}".encode()).digest() for block in range(256)
    )
    for path, data in {
        "int8/model.onnx": b"no graph",
        "int8/model.onnx_data": weights,
        "tokenizer.json": b"{}",
    }.items():
        files.create(directory / path)
        files.append(directory / path, data)
    variant = {
        "name": "int8",
        "dtype": "int8",
        "graph": "int8/model.onnx",
        "files": ["int8/model.onnx", "int8/model.onnx_data"],
        "contract": {"type": "encoder-packed/1", "width": 4, "normalized": True},
        "onnxruntime_floor": "1.20.0",
        "opset": 21,
        "ir": 10,
        "size_bytes": len(weights),
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
        "golden": [{"input": "hello", "answer": [0.5, -0.5], "tolerance": 0.01}],
    }
    return pack(directory, draft, files)


def publish_two(directory: Path, name: str, flaws: Flaws = NO_FLAWS) -> tuple[Bundle, Bundle]:
    """Make keys, a repository and two releases of a tiny bundle; the second has `flaws`.

    `directory` gets `keys` and `repository`. Blocks on the disk. Raises `ConfigError` where a
    repository is there already.
    """
    now = datetime.now(UTC)
    repository = Repository(directory / "repository")
    ring = initialise(repository, directory / "keys", now=now, models=[name])
    publisher = Publisher(repository, ring, now)
    made = []
    for release, wrong in ((1, NO_FLAWS), (2, flaws)):
        folder = directory / f"build-{release}"
        manifest = write_tiny_bundle(folder, name, release)
        publisher.bundle(folder)
        digests = bundle_digest(manifest), model_digest(manifest, "int8")
        made.append(Bundle(*digests, manifest.version, release, wrong))
    return made[0], made[1]
