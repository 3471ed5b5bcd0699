"""The blob store: a folder of files, each named by the sha256 of its bytes.

Layout below its root::

    sha256/<hex>   whole, durable, never changed; safe to serve as immutable
    incoming/      work that may be half done; emptied by the next writer

Rules
- A blob enters by one rename, after its bytes are durable and were hashed while copied.
- A name is checked before it becomes a path: 64 lower-case hex digits, nothing else.
- One writer at a time (the publisher holds the repository's lock); readers need no lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from edge_runtime.bundle.digests import FileDigest, digest_chunks
from edge_runtime.bundle.files import Files, exists, make_dirs, remove_tree
from edge_runtime.bundle.manifest import BLOCK_BYTES, Sha256
from edge_runtime.errors import BundleError

_DIGEST: TypeAdapter[str] = TypeAdapter(Sha256)


class BlobStore:
    """See the module. Reading methods may be called from any thread; they block on the disk."""

    def __init__(self, root: Path, files: Files) -> None:
        self._blobs = root / "sha256"
        self._incoming = root / "incoming"
        self._files = files

    def prepare(self) -> None:
        """Make the folders and drop what a crash left half done. For the one writer."""
        make_dirs(self._files, self._blobs)
        make_dirs(self._files, self._incoming)
        for name in self._files.listdir(self._incoming):
            remove_tree(self._files, self._incoming / name)

    def path(self, digest: str) -> Path:
        """Where a blob lies, or would. Raises `BundleError` when it is no sha256 in hex."""
        try:
            return self._blobs / _DIGEST.validate_python(digest, strict=True)
        except ValidationError as error:
            raise BundleError(f"{digest!r:.80}", "is not a sha256 (64 hex digits)") from error

    def has(self, digest: str) -> bool:
        """Whether the blob is there; a blob that is there is whole."""
        return exists(self._files, self.path(digest))

    def read(self, digest: str, limit: int) -> bytes:
        """A small blob, verified. Raises `BundleError` when missing, larger or damaged."""
        try:
            data = self._files.read(self.path(digest), limit + 1)
        except OSError as error:
            raise BundleError(digest, f"is not in the blob store: {error.strerror}") from error
        if len(data) > limit:
            raise BundleError(digest, f"is larger than {limit} bytes")
        if hashlib.sha256(data).hexdigest() != digest:
            raise BundleError(digest, "is damaged in the blob store: publish it again")
        return data

    def put(self, data: bytes) -> str:
        """Keep these bytes; durable on return. The digest that names them."""
        digest = hashlib.sha256(data).hexdigest()
        self._put(digest, len(data), (data,))
        return digest

    def put_file(self, source: Path, expected: FileDigest) -> int:
        """Keep a file whose digest is known; durable on return.

        Returns the bytes that were new to the store: its size, or 0. Raises `BundleError` when
        the file has other bytes; then nothing was kept.
        """
        return self._put(
            expected.sha256, expected.size, self._files.read_blocks(source, BLOCK_BYTES)
        )

    def put_chunks(self, chunks: Iterable[bytes]) -> FileDigest:
        """Keep bytes whose digest is not known yet; durable on return."""
        draft = self._incoming / "chunks"
        if exists(self._files, draft):
            self._files.unlink(draft)
        self._files.create(draft)
        digest = digest_chunks(self._written(draft, chunks))
        self._files.fsync_file(draft)
        self._files.rename(draft, self.path(digest.sha256))
        self._files.fsync_dir(self._blobs)
        return digest

    def discard(self, digest: str) -> None:
        """Remove a blob that nothing names yet."""
        self._files.unlink(self.path(digest))

    def _written(self, draft: Path, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._files.append(draft, chunk)
            yield chunk

    def _put(self, digest: str, size: int, chunks: Iterable[bytes]) -> int:
        target = self.path(digest)
        if exists(self._files, target) and self._files.stat(target).size == size:
            self._files.fsync_dir(self._blobs)  # an earlier call may have failed before it
            return 0
        draft = self._incoming / digest
        if exists(self._files, draft):
            self._files.unlink(draft)
        self._files.create(draft)
        hasher = hashlib.sha256()
        for chunk in chunks:
            hasher.update(chunk)
            self._files.append(draft, chunk)
        if hasher.hexdigest() != digest:
            self._files.unlink(draft)
            raise BundleError(digest, "the file changed while it was published: try again")
        self._files.fsync_file(draft)
        self._files.rename(draft, target)
        self._files.fsync_dir(self._blobs)
        return size
