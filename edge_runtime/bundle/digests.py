"""Digests: of a file, of a bundle, and of what one variant answers with.

`bundle_digest` changes with any byte of a bundle; the store, the fleet and TUF targets name it.
`model_digest` changes only with what can change an answer; caches, certificates, ledger rows
and metrics name it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.manifest import BLOCK_BYTES, FileEntry, Manifest


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a manifest says of a file's bytes.

    `size` in bytes; `sha256` of all of them; `blocks` the sha256 of each 2 MiB block, the last
    one shorter, none for an empty file. Hashes are lower-case hex.
    """

    size: int
    sha256: str
    blocks: tuple[str, ...]

    @classmethod
    def of_entry(cls, entry: FileEntry) -> FileDigest:
        """The digest a manifest lists for one file."""
        return cls(entry.size, entry.sha256, entry.blocks)


def digest_chunks(chunks: Iterable[bytes]) -> FileDigest:
    """Digest of the concatenation of `chunks`, of any lengths, in one pass.

    Costs two sha256 over the data; holds one chunk in memory.
    """
    whole = hashlib.sha256()
    block = hashlib.sha256()
    blocks: list[str] = []
    size = 0
    for chunk in chunks:
        whole.update(chunk)
        view = memoryview(chunk)
        while view:
            part = view[: BLOCK_BYTES - size % BLOCK_BYTES]
            block.update(part)
            size += len(part)
            view = view[len(part) :]
            if size % BLOCK_BYTES == 0:
                blocks.append(block.hexdigest())
                block = hashlib.sha256()
    if size % BLOCK_BYTES:
        blocks.append(block.hexdigest())
    return FileDigest(size, whole.hexdigest(), tuple(blocks))


def bundle_digest(manifest: Manifest) -> str:
    """sha256, in hex, of the canonical (RFC 8785) manifest with its unknown sections.

    A packed `manifest.json` holds exactly those bytes, so `sha256sum manifest.json` prints it.
    """
    return hashlib.sha256(canonical_bytes(manifest.document())).hexdigest()


def model_digest(manifest: Manifest, variant: str) -> str:
    """sha256, in hex, of what one variant answers with.

    Covers the variant's graph and files (weights, adapters), the tokenizer and the chat
    template. The hashed bytes are the canonical JSON of the list of `[path, sha256]` pairs of
    those files, each once, sorted by path; for example `[["a.onnx","9f..."],["b.json","0c..."]]`.
    Raises `KeyError` for an unknown variant.
    """
    chosen = manifest.variant(variant)
    paths = {chosen.graph, *chosen.files, manifest.tokenizer.file}
    if manifest.chat_template is not None:
        paths.add(manifest.chat_template.file)
    pairs = [[path, manifest.entry(path).sha256] for path in sorted(paths)]
    return hashlib.sha256(canonical_bytes(pairs)).hexdigest()
