"""How many bytes it takes to move a box from one bundle to another.

    python -m benchmarks.fleet_delta OLD NEW

For every file that differs: its size, packed by zstd -19, by zstd -19 with the old file as
dictionary (what `zstd --patch-from` does), and as a tensor delta, which is applied and checked.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import zstandard

from edge_runtime.bundle.digests import FileDigest
from edge_runtime.bundle.files import RealFiles
from edge_runtime.bundle.pack import load_manifest
from fleet.blobs.store import BlobStore
from fleet.delta.make import LEVEL, make_deltas


def packed(data: bytes, base: bytes | None = None) -> int:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=27, enable_ldm=True
    )
    known = None
    if base is not None:
        known = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    packer = zstandard.ZstdCompressor(compression_params=parameters, dict_data=known)
    return len(packer.compress(data))


def measure(old: Path, new: Path) -> list[tuple[str, int, int, int, int]]:
    """Path, bytes, packed, packed with the old file as dictionary, tensor delta."""
    files = RealFiles()
    base, result = load_manifest(old), load_manifest(new)
    with tempfile.TemporaryDirectory() as folder:
        blobs = BlobStore(Path(folder), files)
        blobs.prepare()
        for directory, manifest in ((old, base), (new, result)):
            for entry in manifest.files:
                blobs.put_file(directory / entry.path, FileDigest.of_entry(entry))
        made = make_deltas(blobs, files, base, result)
    rows = []
    for item in made.files:
        data = (new / item.delta.path).read_bytes()
        before = (old / item.base_path).read_bytes()
        path, size = item.delta.path, item.delta.size
        rows.append((path, len(data), packed(data), packed(data, before), size))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    given = parser.parse_args()
    rows = measure(given.old, given.new)
    size, alone, known, delta = (sum(column) for column in list(zip(*rows, strict=True))[1:])
    rows.append(("all", size, alone, known, delta))
    print("| file | bytes | zstd -19 | with the old file as dictionary | tensor delta |")
    print("|---|---:|---:|---:|---:|")
    for path, size, *others in rows:
        shares = " | ".join(f"{other / size:.1%}" for other in others)
        print(f"| {path} | {size} | {shares} |")


if __name__ == "__main__":
    main()
