"""`CrashFiles`: an in-memory file layer that replays a power cut at any call.

Rules of the model (the weakest that journaling file systems of Linux promise)
- A file's bytes survive once `fsync_file` of it returned; a name survives once `fsync_dir` of
  the directory that holds it returned. For a rename that is the target's directory, and the
  rename happens as a whole or not at all.
- What was not yet made durable may have reached the disk or not. What waits for the same fsync
  arrives in order: of one file's writes, or of one directory's names, a prefix survives. The
  first write past that prefix may be torn: cut short, or its tail zeros.
- What waits for different fsyncs arrives in any order, so a new name may point at no bytes.

It does not model symbolic links, disk errors (see `on_call`), or bytes decaying later.

Example: whatever the crash, `recover` finds the old or the new state::

    files = CrashFiles()
    ...  # make the old state
    files.sync()
    change_something(files)
    for crash in files.crashes():
        recover(crash.files)
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle.files import READ_BYTES, FileKind, FileStat
from edge_runtime.bundle.replay import ROOT, Bytes, Disk, Effect, Names, Sync, outcomes, replay


@dataclass(frozen=True, slots=True)
class Call:
    """One mutating call: the method's name and the path whose state it changed."""

    method: str
    path: Path
    effect: Effect


@dataclass(frozen=True, slots=True)
class Crash:
    """A disk as it may be found after a crash.

    `calls_made` of the recorded calls had returned; `outcome` says what became of those that
    were not durable: "nothing", "everything", "only <inode>" or "seed <n>".
    """

    calls_made: int
    outcome: str
    files: CrashFiles


class CrashFiles:
    """A `Files` in memory, empty but for `/`; see the module's rules.

    `free` is what `free_bytes` answers. `on_call(method, path)` is called before each mutating
    call and may raise, for example `OSError(ENOSPC)`; the call then has no effect.
    """

    def __init__(
        self,
        *,
        free: int = 1 << 40,
        on_call: Callable[[str, Path], None] | None = None,
    ) -> None:
        self.free = free
        self.on_call = on_call
        self.calls: list[Call] = []
        self._durable = Disk()
        self._live = Disk()
        self._locks: set[Path] = set()

    # What a crash leaves

    def sync(self) -> None:
        """Make everything durable and forget the recorded calls."""
        self._durable = self._live.copy()
        self.calls = []

    def tree(self) -> object:
        """The whole disk as nested dicts, files as bytes; for comparisons."""
        return self._live.tree()

    def crashes(
        self, *, after: Iterable[int] | None = None, seeds: Sequence[int] = range(4)
    ) -> Iterator[Crash]:
        """Disks after a crash, in every kind of outcome.

        `after` chooses the numbers of calls that had returned; by default 0 and each one more.
        Outcomes of one of them that leave the same disk are yielded once. Costs a replay of
        the recorded calls for each outcome.
        """
        for calls_made in range(len(self.calls) + 1) if after is None else after:
            seen: list[object] = []
            history = [call.effect for call in self.calls[:calls_made]]
            for outcome, survivors in outcomes(history, seeds):
                files = self._after(calls_made, survivors)
                if (tree := files.tree()) not in seen:
                    seen.append(tree)
                    yield Crash(calls_made, outcome, files)

    def _after(self, calls_made: int, survivors: Mapping[int, Effect]) -> CrashFiles:
        disk = self._durable.copy()
        # Inodes exist from the start: one that lost its name, or its bytes, is just not seen.
        disk.next_inode = self._live.next_inode
        for inode in self._live.directories:
            disk.directories.setdefault(inode, {})
        for inode in self._live.contents:
            disk.contents.setdefault(inode, b"")
        replay(disk, [call.effect for call in self.calls[:calls_made]], survivors)
        result = CrashFiles(free=self.free)
        result._live = disk
        result.sync()
        return result

    # Calls that change something

    def create(self, path: Path) -> None:
        """See `Files.create`."""
        inode = self._live.next_inode
        effect = self._new_name(path, inode)
        self._begin("create", path)
        self._live.next_inode += 1
        self._live.contents[inode] = b""
        self._record("create", path, effect)

    def mkdir(self, path: Path) -> None:
        """See `Files.mkdir`."""
        inode = self._live.next_inode
        effect = self._new_name(path, inode)
        self._begin("mkdir", path)
        self._live.next_inode += 1
        self._live.directories[inode] = {}
        self._record("mkdir", path, effect)

    def link(self, source: Path, target: Path) -> None:
        """See `Files.link`."""
        effect = self._new_name(target, self._file(source))
        self._begin("link", target)
        self._record("link", target, effect)

    def append(self, path: Path, data: bytes) -> None:
        """See `Files.append`."""
        effect = Bytes(self._file(path), None, bytes(data))
        self._begin("append", path)
        self._record("append", path, effect)

    def truncate(self, path: Path, size: int) -> None:
        """See `Files.truncate`. Files are only ever cut here, never grown."""
        effect = Bytes(self._file(path), size, b"")
        self._begin("truncate", path)
        self._record("truncate", path, effect)

    def fsync_file(self, path: Path) -> None:
        """See `Files.fsync_file`."""
        effect = Sync(self._file(path))
        self._begin("fsync_file", path)
        self._record("fsync_file", path, effect)

    def fsync_dir(self, path: Path) -> None:
        """See `Files.fsync_dir`."""
        effect = Sync(self._directory(path))
        self._begin("fsync_dir", path)
        self._record("fsync_dir", path, effect)

    def rename(self, source: Path, target: Path) -> None:
        """See `Files.rename`."""
        inode = self._find(source)
        source_dir, target_dir = self._directory(source.parent), self._directory(target.parent)
        replaced = self._live.directories[target_dir].get(target.name)
        if replaced in self._live.directories:
            raise _os_error(errno.ENOTEMPTY, target)  # so strict that callers remove it first
        self._begin("rename", target)
        edits = ((source_dir, source.name, None), (target_dir, target.name, inode))
        self._record("rename", target, Names(target_dir, edits))

    def unlink(self, path: Path) -> None:
        """See `Files.unlink`."""
        self._file(path)
        parent = self._directory(path.parent)
        self._begin("unlink", path)
        self._record("unlink", path, Names(parent, ((parent, path.name, None),)))

    def rmdir(self, path: Path) -> None:
        """See `Files.rmdir`."""
        if self._live.directories[self._directory(path)]:
            raise _os_error(errno.ENOTEMPTY, path)
        parent = self._directory(path.parent)
        self._begin("rmdir", path)
        self._record("rmdir", path, Names(parent, ((parent, path.name, None),)))

    # Calls that look

    def listdir(self, path: Path) -> list[str]:
        """See `Files.listdir`."""
        return sorted(self._live.directories[self._directory(path)])

    def stat(self, path: Path) -> FileStat:
        """See `Files.stat`."""
        inode = self._find(path)
        if inode in self._live.directories:
            return FileStat(FileKind.DIRECTORY, 0)
        return FileStat(FileKind.FILE, len(self._live.contents[inode]))

    def read(self, path: Path, limit: int) -> bytes:
        """See `Files.read`."""
        return self._live.contents[self._file(path)][:limit]

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """See `Files.read_at`."""
        return self._live.contents[self._file(path)][offset : offset + size]

    def read_blocks(self, path: Path, size: int = READ_BYTES) -> Iterator[bytes]:
        """See `Files.read_blocks`."""
        data = self._live.contents[self._file(path)]
        for start in range(0, len(data), size):
            yield data[start : start + size]

    def free_bytes(self, path: Path) -> int:
        """See `Files.free_bytes`."""
        self._find(path)
        return self.free

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """See `Files.lock`. The lock file itself is not modelled: it holds nothing."""
        self._directory(path.parent)
        if path in self._locks:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))
        self._locks.add(path)
        try:
            yield
        finally:
            self._locks.remove(path)

    def _begin(self, method: str, path: Path) -> None:
        if self.on_call is not None:
            self.on_call(method, path)

    def _record(self, method: str, path: Path, effect: Effect) -> None:
        self._live.apply(effect)
        self.calls.append(Call(method, path, effect))

    def _new_name(self, path: Path, inode: int) -> Names:
        parent = self._directory(path.parent)
        if path.name in self._live.directories[parent]:
            raise _os_error(errno.EEXIST, path)
        return Names(parent, ((parent, path.name, inode),))

    def _find(self, path: Path) -> int:
        inode = ROOT
        for part in path.parts[1:]:
            if inode not in self._live.directories:
                raise _os_error(errno.ENOTDIR, path)
            if part not in self._live.directories[inode]:
                raise _os_error(errno.ENOENT, path)
            inode = self._live.directories[inode][part]
        return inode

    def _file(self, path: Path) -> int:
        inode = self._find(path)
        if inode in self._live.directories:
            raise _os_error(errno.EISDIR, path)
        return inode

    def _directory(self, path: Path) -> int:
        inode = self._find(path)
        if inode not in self._live.directories:
            raise _os_error(errno.ENOTDIR, path)
        return inode


def _os_error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))
