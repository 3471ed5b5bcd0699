"""Copying a bundle into the staging area so that it is whole and durable before it is used."""

from __future__ import annotations

import errno
from pathlib import Path

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.files import READ_BYTES, Files
from edge_runtime.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from edge_runtime.bundle.pack import check_tree, verify
from edge_runtime.errors import BundleError


def copy_bundle(
    files: Files, source: Path, target: Path, manifest: Manifest, *, link: bool
) -> None:
    """Make `target` a verified, durable copy of the bundle at `source`.

    `target` must not exist; its own name is not made durable. With `link`, files get second
    names instead of copies where the file system can. Raises `BundleError` when the source is
    not what `manifest` says, before a byte is copied if that can be seen without reading;
    the caller removes what is left at `target`.
    """
    check_tree(source, manifest, files)
    files.mkdir(target)
    directories = [target]
    for entry in manifest.files:
        for parent in reversed(Path(entry.path).parents[:-1]):
            if target / parent not in directories:
                files.mkdir(target / parent)
                directories.append(target / parent)
        _copy_file(files, source, target, entry, link=link)
    files.create(target / MANIFEST_NAME)
    files.append(target / MANIFEST_NAME, canonical_bytes(manifest.document()))
    files.fsync_file(target / MANIFEST_NAME)
    for directory in directories:
        files.fsync_dir(directory)
    # The copy is read back: the source may have changed since, or the disk may lie.
    verify(target, manifest, files)


def _copy_file(files: Files, source: Path, target: Path, entry: FileEntry, *, link: bool) -> None:
    origin, copy = source / entry.path, target / entry.path
    if not (link and _linked(files, origin, copy)):
        files.create(copy)
        size = 0
        for block in files.read_blocks(origin, READ_BYTES):
            size += len(block)
            if size > entry.size:  # it grew since it was looked at; do not fill the disk with it
                raise BundleError(entry.path, f"has more than {entry.size} bytes")
            files.append(copy, block)
    files.fsync_file(copy)


def _linked(files: Files, origin: Path, copy: Path) -> bool:
    try:
        files.link(origin, copy)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK):  # another file system, or none
            return False
        raise
    return True
