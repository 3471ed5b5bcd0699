"""Make, read and verify a bundle directory.

Rules
- `manifest.json` is canonical JSON (RFC 8785), at most 4 MiB.
- A bundle directory holds `manifest.json` and the files it lists: nothing else, no links, no
  special files, no names that `manifest.check_path` refuses.
- Every refusal is a `BundleError` that names the file and the reason.

Whether a bundle may be *trusted* is not asked here: this says that it is whole.

Example::

    manifest = pack(directory, draft)  # draft: the manifest without `files`
    assert load_manifest(directory) == manifest
    verify(directory, manifest)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.digests import FileDigest, digest_chunks
from edge_runtime.bundle.files import FileKind, Files, RealFiles, write_atomically
from edge_runtime.bundle.manifest import (
    BLOCK_BYTES,
    MANIFEST_NAME,
    SCHEMA,
    Manifest,
    check_path,
)
from edge_runtime.errors import BundleError

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILES = 4096

_REAL = RealFiles()


def pack(directory: Path, draft: dict[str, object], files: Files = _REAL) -> Manifest:
    """Write `manifest.json` for the files in `directory` and return it.

    `draft` is the manifest without `files`; every file in the directory is hashed and listed.
    An older manifest is replaced atomically. Raises `BundleError` when a file or a section is
    refused; then nothing was written.
    """
    if "files" in draft:
        raise BundleError(MANIFEST_NAME, "the draft must leave out 'files': pack fills it")
    listed = []
    for path, _ in _walk(directory, files):
        digest = digest_chunks(files.read_blocks(directory / path, BLOCK_BYTES))
        listed.append({"path": path, **dataclasses.asdict(digest)})
    try:
        data = canonical_bytes({**draft, "files": listed})
    except ValueError as error:
        raise BundleError(MANIFEST_NAME, str(error)) from error
    manifest = parse_manifest(data)
    write_atomically(files, directory / MANIFEST_NAME, data)
    return manifest


def load_manifest(directory: Path, files: Files = _REAL) -> Manifest:
    """Read and validate `manifest.json`; the files it lists are not looked at (see `verify`).

    Raises `BundleError` when it is missing, oversized, malformed or not canonical, of an
    unknown schema, or when a section is missing or wrong.
    """
    path = directory / MANIFEST_NAME
    try:
        found = files.stat(path)
        if found.kind is not FileKind.FILE:
            raise BundleError(MANIFEST_NAME, "is not a regular file")
        data = files.read(path, MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(MANIFEST_NAME, _io_reason(error)) from error
    return parse_manifest(data)


def parse_manifest(data: bytes) -> Manifest:
    """The manifest of these bytes. Raises `BundleError` like `load_manifest`."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(MANIFEST_NAME, f"is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        document = parse_strict(data)
    except ValueError as error:
        raise BundleError(MANIFEST_NAME, str(error)) from error
    if not isinstance(document, dict):
        raise BundleError(MANIFEST_NAME, "is not a JSON object")
    schema = document.get("schema")
    if schema != SCHEMA:
        raise BundleError(MANIFEST_NAME, f"unknown schema {schema!r:.80}; this reads {SCHEMA!r}")
    try:
        # Strict: "12" for a number would pass as one, and then hash as another document.
        manifest = Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise BundleError(MANIFEST_NAME, _validation_reason(error)) from error
    if len(manifest.files) > MAX_FILES:
        raise BundleError(MANIFEST_NAME, f"lists more than {MAX_FILES} files")
    _check_canonical(data, manifest)
    return manifest


def verify(directory: Path, manifest: Manifest, files: Files = _REAL) -> None:
    """Check that `directory` holds exactly the files of `manifest`, byte for byte.

    Reads every byte once. Raises `BundleError` for the first file that is missing, unlisted,
    not a regular file (nor in a regular directory), of another size or of another digest.
    The manifest file itself is not compared: `load_manifest` read it.
    """
    check_tree(directory, manifest, files)
    for entry in manifest.files:
        try:
            digest = digest_chunks(files.read_blocks(directory / entry.path, BLOCK_BYTES))
        except OSError as error:
            raise BundleError(entry.path, _io_reason(error)) from error
        if digest != FileDigest.of_entry(entry):
            raise BundleError(entry.path, "its bytes do not match the manifest's sha256")


def check_tree(directory: Path, manifest: Manifest, files: Files = _REAL) -> None:
    """The part of `verify` that reads no file: names, kinds and sizes."""
    sizes = dict(_walk(directory, files))
    listed = {entry.path for entry in manifest.files}
    for path in sorted(listed - sizes.keys()):
        raise BundleError(path, "is listed in the manifest but missing")
    for path in sorted(sizes.keys() - listed):
        raise BundleError(path, "is not listed in the manifest")
    for entry in manifest.files:
        if sizes[entry.path] != entry.size:
            raise BundleError(
                entry.path, f"has {sizes[entry.path]} bytes, the manifest says {entry.size}"
            )


def _walk(directory: Path, files: Files) -> list[tuple[str, int]]:
    """Relative path and size of all files but the manifest, sorted.

    Refuses what no bundle may hold.
    """
    try:
        if files.stat(directory).kind is not FileKind.DIRECTORY:
            raise BundleError(str(directory), "is not a directory")
        found = []
        for path, size in _walk_below(directory, "", files):
            found.append((path, size))
            if len(found) > MAX_FILES:
                raise BundleError(path, f"a bundle holds at most {MAX_FILES} files")
    except OSError as error:
        raise BundleError(error.filename or str(directory), _io_reason(error)) from error
    return sorted(found)


def _walk_below(directory: Path, prefix: str, files: Files) -> Iterator[tuple[str, int]]:
    names = files.listdir(directory)
    if prefix and not names:
        raise BundleError(prefix.rstrip("/"), "is an empty directory")
    for name in names:
        path = prefix + name
        if path == MANIFEST_NAME:
            continue
        try:
            check_path(path)
        except ValueError as error:
            raise BundleError(path, str(error)) from error
        found = files.stat(directory / name)
        if found.kind is FileKind.FILE:
            yield path, found.size
        elif found.kind is FileKind.DIRECTORY:
            yield from _walk_below(directory / name, f"{path}/", files)
        else:
            raise BundleError(path, "is a link or special file; only regular files may ship")


def _check_canonical(data: bytes, manifest: Manifest) -> None:
    """The bytes on disk must be the one form of what the model holds of them."""
    try:
        same = data == canonical_bytes(manifest.document())
    except ValueError as error:
        raise BundleError(MANIFEST_NAME, str(error)) from error
    if not same:
        raise BundleError(MANIFEST_NAME, "is not canonical JSON (RFC 8785): write it with `pack`")


def _validation_reason(error: ValidationError) -> str:
    reasons = []
    for fault in error.errors(include_url=False, include_input=False)[:3]:
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "missing":
            reasons.append(f"required section {where!r} is missing")
        else:
            reasons.append(f"{where}: {fault['msg']}" if where else fault["msg"])
    more = error.error_count() - len(reasons)
    return "; ".join(reasons) + (f"; and {more} more" if more else "")


def _io_reason(error: OSError) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
