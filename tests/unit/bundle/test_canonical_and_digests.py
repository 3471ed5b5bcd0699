"""One byte form a value; digests that depend on content and on nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.digests import FileDigest, bundle_digest, digest_chunks, model_digest
from edge_runtime.bundle.manifest import BLOCK_BYTES
from edge_runtime.bundle.pack import parse_manifest
from tests.support.bundles import tiny_draft, write_tiny_bundle

MAX_INT = 2**53 - 1
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INT, MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not 2**53 <= abs(x) < 1e21)
    | TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_canonical_form_is_read_back_and_written_the_same(value: Any) -> None:
    data = canonical_bytes(value)
    assert parse_strict(data) == value
    assert canonical_bytes(parse_strict(data)) == data


@given(st.dictionaries(TEXT, SCALARS, max_size=6))
def test_canonical_form_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_bytes(turned) == canonical_bytes(value)


def test_canonical_form_is_that_of_rfc_8785() -> None:
    # The sample of RFC 8785, section 3.2.2.
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\u000f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_bytes(value) == expected.encode()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**53, {"a": object()}, {1: "a"}, "\ud800", {"\ud800": 1}],
    ids=["nan", "inf", "2**53", "object", "int key", "lone surrogate", "surrogate key"],
)
def test_what_has_no_portable_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="no canonical JSON form"):
        canonical_bytes(value)


def test_deep_values_are_refused_not_a_crash() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="too deeply"):
        canonical_bytes(deep)
    while deep:  # taken apart by hand: freeing it in one go is deep too
        deep = deep.pop()  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1, "b": ', "truncated"),
        (b"", "is not JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "names a key twice: a"),
        (b'{"x": {"k": 1, "k": 1}}', "names a key twice: k"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b"[" * 200_000, "too deeply"),
        (b"9" * 5000, "digits"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_json_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_strict(data)


@settings(max_examples=30)
@given(st.lists(st.integers(0, BLOCK_BYTES + 3), max_size=4), st.integers(0, 255))
def test_file_digest_does_not_depend_on_chunks(lengths: list[int], byte: int) -> None:
    chunks = [bytes([(byte + index) % 256]) * length for index, length in enumerate(lengths)]
    whole = b"".join(chunks)
    blocks = [whole[start : start + BLOCK_BYTES] for start in range(0, len(whole), BLOCK_BYTES)]
    assert digest_chunks(chunks) == FileDigest(
        size=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
        blocks=tuple(hashlib.sha256(block).hexdigest() for block in blocks),
    )


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_blocks_at_the_borders(size: int) -> None:
    digest = digest_chunks([b"x" * size])
    assert (digest.size, len(digest.blocks)) == (size, -(-size // BLOCK_BYTES))


def test_bundle_digest_is_the_sha256_of_the_manifest_file(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path / "b", future={"kept": [1.5, None]})
    data = (tmp_path / "b" / "manifest.json").read_bytes()
    assert bundle_digest(manifest) == hashlib.sha256(data).hexdigest()


@given(future=VALUES)
def test_unknown_sections_are_kept_and_covered_by_the_digest(future: Any) -> None:
    document = {**tiny_draft(), "files": files_section(), "future_section": future}
    data = canonical_bytes(document)
    manifest = parse_manifest(data)
    assert manifest.model_extra == {"future_section": future}
    assert bundle_digest(manifest) == hashlib.sha256(data).hexdigest()


def files_section(sha256: str = "2" * 64) -> list[dict[str, object]]:
    paths = ["int8/model.onnx", "int8/model.onnx_data", "tokenizer.json", "README.md"]
    return [{"path": path, "size": 3, "sha256": sha256, "blocks": ["3" * 64]} for path in paths]


def manifest_bytes(**changes: Any) -> bytes:
    return canonical_bytes({**tiny_draft(), "files": files_section(), **changes})


def test_model_digest_is_that_of_its_documented_bytes() -> None:
    pairs = [[path, "2" * 64] for path in ("int8/model.onnx", "int8/model.onnx_data")]
    pairs.append(["tokenizer.json", "2" * 64])
    expected = hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()
    assert model_digest(parse_manifest(manifest_bytes()), "int8") == expected


def test_model_digest_changes_with_answers_only() -> None:
    def digest(**changes: Any) -> str:
        return model_digest(parse_manifest(manifest_bytes(**changes)), "int8")

    assert digest(version="2", release=9, gate={}, licence="MIT") == digest()
    readme = files_section()
    readme[3]["sha256"] = "4" * 64
    assert digest(files=readme) == digest()
    weights = files_section()
    weights[1]["sha256"] = "4" * 64
    assert digest(files=weights) != digest()
    assert digest(chat_template={"file": "README.md"}) != digest()
    with pytest.raises(KeyError):
        model_digest(parse_manifest(manifest_bytes()), "int4")
