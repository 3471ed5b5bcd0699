"""Whole files of bundles that are on this box already, by their sha256."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_runtime.bundle.digests import FileDigest, digest_chunks
from edge_runtime.bundle.files import Files
from edge_runtime.bundle.manifest import FileEntry, Manifest
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.errors import BundleError


class LocalFiles:
    """Files listed by the manifests of some bundle directories. Blocks on the disk.

    Directories whose manifest cannot be read are left out.
    """

    def __init__(self, files: Files, directories: Iterable[Path]) -> None:
        self._files = files
        self.bundles: dict[Path, Manifest] = {}
        self._paths: dict[str, list[Path]] = {}
        for directory in directories:
            try:
                manifest = load_manifest(directory, files)
            except BundleError:
                continue
            self.bundles[directory] = manifest
            for entry in manifest.files:
                self._paths.setdefault(entry.sha256, []).append(directory / entry.path)

    def find(self, entry: FileEntry) -> Path | None:
        """A file with exactly these bytes; each candidate is read once. None when none is whole."""
        for path in self._paths.get(entry.sha256, ()):
            try:
                if self._files.stat(path).size != entry.size:
                    continue
                if digest_chunks(self._files.read_blocks(path)) == FileDigest.of_entry(entry):
                    return path
            except OSError:
                continue
        return None
