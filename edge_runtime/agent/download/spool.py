"""The folder of one download: parts that grow, a journal, and the finished files.

Layout below its root::

    journal          lines of <sha256> <blocks> <crc32>: so many blocks of that blob are durable
    parts/<sha256>   a blob that grows by whole, verified blocks
    tree/            finished files under the names of the bundle

Rules
- A block is journalled after its bytes are durable, and counts once its line is durable too: what
  was acknowledged is never fetched again. Bytes beyond the journal are cut off at the next start.
- The last line of a blob holds. A line that was torn ends the journal.
- A file enters `tree/` by a rename or a link, when it is whole.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from edge_runtime.agent.download.plan import BlobSpec
from edge_runtime.bundle.digests import digest_chunks
from edge_runtime.bundle.files import Files, exists, make_dirs, write_atomically
from edge_runtime.errors import BundleError

MAX_JOURNAL_BYTES = 64 * 1024 * 1024
_LINE = re.compile(rb"([0-9a-f]{64}) ([0-9]{1,9}) ([0-9a-f]{8})\n")


class Spool:
    """See the module. Blocks on the disk; one at a time uses a folder."""

    def __init__(self, root: Path, files: Files) -> None:
        self._root = root
        self.tree = root / "tree"
        self._parts = root / "parts"
        self._journal = root / "journal"
        self._files = files
        self._done: dict[str, int] = {}

    def open(self) -> None:
        """Make the folders; read the journal, and drop what a crash tore of it."""
        make_dirs(self._files, self._root)
        for folder in (self._parts, self.tree):
            if not exists(self._files, folder):
                self._files.mkdir(folder)
        data = b""
        if exists(self._files, self._journal):
            data = self._files.read(self._journal, MAX_JOURNAL_BYTES)
        self._done, good = _parse_journal(data)
        if good != len(data) or not data:
            lines = b"".join(_line(sha, blocks) for sha, blocks in sorted(self._done.items()))
            # Makes the two folders durable as well: they were named before it.
            write_atomically(self._files, self._journal, lines)

    def part(self, spec: BlobSpec) -> Part:
        """The part of a blob as far as it got; made when there is none."""
        path = self._parts / spec.sha256
        done = 0
        if exists(self._files, path):
            size = self._files.stat(path).size
            done = min(self._done.get(spec.sha256, 0), len(spec.blocks))
            if spec.bytes_of(done) > size:  # its file was moved or cut after the line was written
                done = size // spec.block_bytes
            if spec.bytes_of(done) != size:
                self._files.truncate(path, spec.bytes_of(done))
        else:
            self._files.create(path)
        self._files.fsync_dir(self._parts)  # also when it was there: see `files.make_dirs`
        return Part(spec, path, done, self)

    def note(self, sha256: str, blocks: int) -> None:
        """Journal that so many blocks of a blob are durable; durable on return."""
        self._files.append(self._journal, _line(sha256, blocks))
        self._files.fsync_file(self._journal)
        self._done[sha256] = blocks

    def finished(self, path: str, size: int) -> bool:
        """Whether a file of the bundle is in `tree/`."""
        target = self.tree / path
        return exists(self._files, target) and self._files.stat(target).size == size

    def adopt(self, source: Path, path: str) -> None:
        """Give a whole file a name in `tree/`: a second one when it lies outside, else a new one.

        A power cut may undo that; then the part is found again, or the file outside. Raises
        `OSError` where the file system cannot link.
        """
        target = self.tree / path
        self._make_folders(target.parent)
        if exists(self._files, target):
            self._files.unlink(target)
        if source.parent == self._parts:
            self._files.rename(source, target)
        else:
            self._files.link(source, target)

    def write(self, path: str, data: bytes) -> None:
        """Put a small file into `tree/`; durable on return."""
        write_atomically(self._files, self.tree / path, data)

    def _make_folders(self, folder: Path) -> None:
        """Make the folders between `tree` and `folder`, durably, or a part could move into one
        that a power cut takes away.
        """
        if folder == self.tree:
            return
        self._make_folders(folder.parent)
        if not exists(self._files, folder):
            self._files.mkdir(folder)
        self._files.fsync_dir(folder.parent)

    @property
    def files(self) -> Files:
        """The file layer."""
        return self._files


class Part:
    """A blob that grows. `done` blocks are durable; `resumed` of them are of an earlier run."""

    def __init__(self, spec: BlobSpec, path: Path, done: int, spool: Spool) -> None:
        self.spec = spec
        self.path = path
        self.done = done
        self.resumed = done
        self._spool = spool

    @property
    def complete(self) -> bool:
        """Whether all blocks are there."""
        return self.done == len(self.spec.blocks)

    @property
    def done_bytes(self) -> int:
        """Bytes of the blocks that are there."""
        return self.spec.bytes_of(self.done)

    def append(self, index: int, data: bytes) -> None:
        """Add the next block, which the caller verified; durable on return."""
        assert index == self.done, "blocks are added in order"
        assert len(data) == self.spec.span(index)[1]
        files = self._spool.files
        files.append(self.path, data)
        files.fsync_file(self.path)  # before the line, or the journal could promise lost bytes
        self._spool.note(self.spec.sha256, index + 1)
        self.done = index + 1

    def audit(self) -> bool:
        """Read back a complete part; False, cut to its good blocks, when bytes decayed."""
        files = self._spool.files
        for index, block in enumerate(files.read_blocks(self.path, self.spec.block_bytes)):
            if digest_chunks((block,)).sha256 != self.spec.blocks[index]:
                self._spool.note(self.spec.sha256, index)
                files.truncate(self.path, self.spec.bytes_of(index))
                self.done = self.resumed = index
                return False
        return True

    def read(self, limit: int) -> bytes:
        """All bytes of a complete, small blob. Raises `BundleError` when it is larger."""
        if self.spec.size > limit:
            raise BundleError(self.spec.sha256[:12], f"is larger than {limit} bytes")
        return self._spool.files.read(self.path, limit)


def _line(sha256: str, blocks: int) -> bytes:
    text = f"{sha256} {blocks} ".encode()
    return text + f"{zlib.crc32(text):08x}\n".encode()


def _parse_journal(data: bytes) -> tuple[dict[str, int], int]:
    """Blocks by blob, and how many bytes of the journal are good."""
    done: dict[str, int] = {}
    at = 0
    while (found := _LINE.match(data, at)) is not None:
        if f"{zlib.crc32(found[0][:-9]):08x}".encode() != found[3]:
            break
        done[found[1].decode()] = int(found[2])
        at = found.end()
    return done, at
