"""What may be a bundle, and how a refusal names the file and the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle import pack as pack_module
from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest, check_path
from edge_runtime.bundle.pack import MAX_MANIFEST_BYTES, load_manifest, pack, parse_manifest, verify
from edge_runtime.errors import BundleError
from tests.support.bundles import tiny_draft, write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_packed_bundle_loads_and_verifies(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    verify(bundle, manifest)
    assert [entry.path for entry in manifest.files] == [
        "int8/model.onnx",
        "int8/model.onnx_data",
        "tokenizer.json",
    ]
    assert manifest.entry("tokenizer.json").size == 2
    assert manifest.variant("int8").dtype == "int8"


def test_packing_again_changes_nothing(bundle: Path) -> None:
    before = (bundle / MANIFEST_NAME).read_bytes()
    pack(bundle, tiny_draft())
    assert (bundle / MANIFEST_NAME).read_bytes() == before
    assert not (bundle / "manifest.json.tmp").exists()


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (tiny_draft(files=[]), "leave out 'files'"),
        (tiny_draft(gate={"loss": float("nan")}), "no canonical JSON form"),
        (tiny_draft(release="1"), "release: Input should be a valid integer"),
        (tiny_draft(context=[1]), "context"),
    ],
)
def test_a_bad_draft_is_refused_and_nothing_written(
    bundle: Path, draft: dict[str, object], reason: str
) -> None:
    before = (bundle / MANIFEST_NAME).read_bytes()
    with pytest.raises(BundleError, match=reason):
        pack(bundle, draft)
    assert (bundle / MANIFEST_NAME).read_bytes() == before


def spoil_truncate(bundle: Path) -> None:
    path = bundle / "int8/model.onnx_data"
    path.write_bytes(path.read_bytes()[:-1])


def spoil_flip(bundle: Path) -> None:
    path = bundle / "int8/model.onnx_data"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


def spoil_grow(bundle: Path) -> None:
    with (bundle / "tokenizer.json").open("ab") as file:
        file.write(b" ")


def spoil_extra(bundle: Path) -> None:
    (bundle / "int8" / "notes.txt").write_text("x")


def spoil_missing(bundle: Path) -> None:
    (bundle / "int8" / "model.onnx").unlink()


def spoil_symlink(bundle: Path) -> None:
    target = bundle / "tokenizer.json"
    target.rename(bundle.parent / "elsewhere.json")
    target.symlink_to(bundle.parent / "elsewhere.json")


def spoil_symlinked_directory(bundle: Path) -> None:
    (bundle / "int8").rename(bundle.parent / "elsewhere")
    (bundle / "int8").symlink_to(bundle.parent / "elsewhere")


def spoil_pipe(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()
    os.mkfifo(bundle / "tokenizer.json")


def spoil_hidden(bundle: Path) -> None:
    (bundle / ".cache").write_text("x")


def spoil_empty_directory(bundle: Path) -> None:
    (bundle / "empty").mkdir()


SPOILED: list[tuple[Callable[[Path], None], str, str]] = [
    (spoil_truncate, "int8/model.onnx_data", "has 8 bytes, the manifest says 9"),
    (spoil_flip, "int8/model.onnx_data", "do not match the manifest's sha256"),
    (spoil_grow, "tokenizer.json", "has 3 bytes, the manifest says 2"),
    (spoil_extra, "int8/notes.txt", "not listed"),
    (spoil_missing, "int8/model.onnx", "missing"),
    (spoil_symlink, "tokenizer.json", "link or special file"),
    (spoil_symlinked_directory, "int8", "link or special file"),
    (spoil_pipe, "tokenizer.json", "link or special file"),
    (spoil_hidden, ".cache", "starting with"),
    (spoil_empty_directory, "empty", "empty directory"),
]


@pytest.mark.parametrize(
    ("spoil", "path", "reason"), SPOILED, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_spoiled_bundle_is_refused_by_file_and_reason(
    bundle: Path, spoil: Callable[[Path], None], path: str, reason: str
) -> None:
    manifest = load_manifest(bundle)
    spoil(bundle)
    with pytest.raises(BundleError) as caught:
        verify(bundle, manifest)
    assert caught.value.path == path
    assert reason in caught.value.reason


def changed(**changes: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda document: canonical_bytes({**document, **changes})


def without(section: str) -> Callable[[dict[str, Any]], bytes]:
    return lambda document: canonical_bytes({k: v for k, v in document.items() if k != section})


def with_path(path: str) -> Callable[[dict[str, Any]], bytes]:
    def change(document: dict[str, Any]) -> bytes:
        document["files"][0]["path"] = path
        return canonical_bytes(document)

    return change


def with_variant(**changes: Any) -> Callable[[dict[str, Any]], bytes]:
    def change(document: dict[str, Any]) -> bytes:
        document["variants"][0].update(changes)
        return canonical_bytes(document)

    return change


def twice(section: str) -> Callable[[dict[str, Any]], bytes]:
    return lambda document: canonical_bytes({**document, section: document[section] * 2})


DECODER = {
    "type": "decoder-packed/1", "layers": 1, "hidden_size": 8, "heads": 2, "kv_heads": 1,
    "head_dim": 4, "vocab_size": 16,
}  # fmt: skip

REQUIRED = (
    "name", "version", "release", "kind", "variants", "files", "tokenizer", "licence", "source",
    "recipe_digest", "gate", "context",
)  # fmt: skip

BAD_MANIFESTS: list[tuple[Callable[[dict[str, Any]], bytes], str]] = [
    (lambda document: canonical_bytes(document)[:-20], "truncated"),
    (lambda _: b"[]", "is not a JSON object"),
    (lambda document: json.dumps(document, indent=1).encode(), "not canonical"),
    (lambda document: b'{"schema":"x",' + canonical_bytes(document)[1:], "names a key twice"),
    (lambda document: canonical_bytes(document) + b" " * MAX_MANIFEST_BYTES, "is larger than"),
    (changed(schema="edge-runtime/bundle/2"), "unknown schema 'edge-runtime/bundle/2'"),
    (without("schema"), "unknown schema None"),
    *[(without(section), f"required section '{section}' is missing") for section in REQUIRED],
    (lambda _: canonical_bytes({"schema": "edge-runtime/bundle/1"}), "and 9 more"),
    (with_path("../../etc/passwd"), "'..' parts"),
    (with_path("/etc/passwd"), "relative POSIX path"),
    (with_path("a\\b"), "relative POSIX path"),
    (with_path("a//b"), "empty"),
    (with_path("a/.git"), "starting with"),
    (with_path("a\n"), "letters, digits"),
    (with_path("a/" * 300 + "b"), "at most 512"),
    (with_path("manifest.json"), "does not list itself"),
    (with_path("other"), "not listed under files: int8/model.onnx"),
    (twice("files"), "a file is listed twice"),
    (twice("variants"), "two variants have the same name"),
    (changed(name="Tiny"), "a-z"),
    (changed(name="tiny\n"), "a-z"),
    (changed(recipe_digest="A" * 64), "64 lower-case hex"),
    (changed(kind="classify"), "a classifier needs labels"),
    (changed(kind="generate"), "encoder-packed/1 is not a generate graph"),
    (with_variant(contract=DECODER), "decoder-packed/1 is not a embed graph"),
    (with_variant(quantised=True), "variants.0.quantised"),
    (changed(chat_template={"file": "chat.jinja"}), "not listed under files: chat.jinja"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), BAD_MANIFESTS)
def test_a_bad_manifest_is_refused_with_its_reason(
    bundle: Path, change: Callable[[dict[str, Any]], bytes], reason: str
) -> None:
    document = json.loads((bundle / MANIFEST_NAME).read_bytes())
    (bundle / MANIFEST_NAME).write_bytes(change(document))
    with pytest.raises(BundleError, match=reason) as caught:
        load_manifest(bundle)
    assert caught.value.path == MANIFEST_NAME


def test_numbers_without_a_portable_form_are_refused(bundle: Path) -> None:
    data = (bundle / MANIFEST_NAME).read_bytes()
    with pytest.raises(BundleError, match="no canonical JSON form"):
        parse_manifest(data[:-1] + b',"z":9007199254740993}')


def test_block_hashes_must_fit_the_size(bundle: Path) -> None:
    document = json.loads((bundle / MANIFEST_NAME).read_bytes())
    document["files"][0]["blocks"] = []
    with pytest.raises(BundleError, match="0 block hashes, size needs 1"):
        parse_manifest(canonical_bytes(document))


def test_block_hashes_are_verified_too(bundle: Path) -> None:
    document = json.loads((bundle / MANIFEST_NAME).read_bytes())
    document["files"][0]["blocks"] = ["0" * 64]
    with pytest.raises(BundleError, match="do not match"):
        verify(bundle, parse_manifest(canonical_bytes(document)))


@pytest.mark.parametrize("make", ["nothing", "directory", "link"])
def test_the_manifest_must_be_a_regular_file(tmp_path: Path, make: str) -> None:
    path = tmp_path / MANIFEST_NAME
    if make == "directory":
        path.mkdir()
    elif make == "link":
        path.symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=r"manifest\.json: is (missing|not a regular file)"):
        load_manifest(tmp_path)


def test_only_directories_can_be_bundles(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    with pytest.raises(BundleError, match="is not a directory"):
        verify(bundle / "tokenizer.json", manifest)
    with pytest.raises(BundleError, match="is missing"):
        verify(bundle / "nowhere", manifest)


def test_the_number_of_files_is_bounded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (bundle / MANIFEST_NAME).read_bytes()
    monkeypatch.setattr(pack_module, "MAX_FILES", 2)
    with pytest.raises(BundleError, match="more than 2 files"):
        parse_manifest(data)
    with pytest.raises(BundleError, match="at most 2 files"):
        pack(bundle, tiny_draft())


def test_a_disk_error_while_verifying_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    files, where = CrashFiles(), Path("/b")
    manifest = write_tiny_bundle(where, files=files)

    def fail(path: Path, size: int = 0) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(files, "read_blocks", fail)
    with pytest.raises(BundleError, match=r"cannot be read: .*Input/output error"):
        verify(where, manifest, files)


def test_a_document_adds_no_defaults(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert isinstance(manifest, Manifest)
    assert "sampling" not in manifest.document()
    assert manifest.sampling.max_output_tokens is None


def test_unknown_names_are_key_errors(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    with pytest.raises(KeyError):
        manifest.entry("nope")
    with pytest.raises(KeyError):
        manifest.variant("nope")


@pytest.mark.parametrize("path", ["a", "a/b.json", "1_Pooling/config.json", "_x/y+z@1=2-3"])
def test_ordinary_paths_pass(path: str) -> None:
    assert check_path(path) == path
