"""The file layer: every file operation whose order decides what a crash leaves behind.

Rules
- Code that promises durability (the bundle store, the download spool) touches the disk only
  through a `Files`. `RealFiles` is the disk; `crash.CrashFiles` is its in-memory twin, which
  replays a power cut at any call.
- A file's bytes are durable after `fsync_file` of it. A name (create, mkdir, link, rename,
  unlink) is durable after `fsync_dir` of the directory that holds it; for a rename that is
  the target's directory. Nothing else is promised.
- No call follows a symbolic link in the last part of a path. Callers that take foreign
  directories look at every part with `stat` first.

Example: replace a small file so that a crash leaves the old or the new one, never a mix::

    write_atomically(files, root / "pointer.json", data)
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import stat as stat_module
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

READ_BYTES = 2 * 1024 * 1024
# A parent that is not this process's to sync: no right to read it, or nothing it could sync.
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS)


class FileKind(enum.StrEnum):
    """What a path is. `OTHER`: symbolic link, device, socket or pipe."""

    FILE = "file"
    DIRECTORY = "directory"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileStat:
    """Kind of a path and its size in bytes (0 but for regular files)."""

    kind: FileKind
    size: int


class Files(Protocol):
    """File operations by absolute path. All raise `OSError` as the operating system does."""

    def create(self, path: Path) -> None:
        """Make a new, empty file. Raises `FileExistsError`."""

    def append(self, path: Path, data: bytes) -> None:
        """Write all of `data` at the end of an existing file."""

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to its first `size` bytes."""

    def fsync_file(self, path: Path) -> None:
        """Make the bytes of a file durable."""

    def fsync_dir(self, path: Path) -> None:
        """Make the names in a directory durable."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or directory another name, atomically; replaces a file of that name."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""

    def mkdir(self, path: Path) -> None:
        """Make one directory. Raises `FileExistsError`."""

    def unlink(self, path: Path) -> None:
        """Remove one name that is not a directory."""

    def rmdir(self, path: Path) -> None:
        """Remove one empty directory."""

    def listdir(self, path: Path) -> list[str]:
        """Names in a directory, sorted."""

    def stat(self, path: Path) -> FileStat:
        """Kind and size of a path, links not followed. Raises `FileNotFoundError`."""

    def read(self, path: Path, limit: int) -> bytes:
        """The first `limit` bytes of a regular file, or all of it when shorter."""

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """`size` bytes of a regular file from `offset`, fewer only at its end."""

    def read_blocks(self, path: Path, size: int = READ_BYTES) -> Iterator[bytes]:
        """All bytes of a regular file, in blocks of `size` bytes but for the last."""

    def free_bytes(self, path: Path) -> int:
        """Bytes an unprivileged process may still write to the file system of `path`."""

    def lock(self, path: Path) -> contextlib.AbstractContextManager[None]:
        """Hold a lock file; entering raises `BlockingIOError` while another holder lives."""


class RealFiles:
    """The disk."""

    def create(self, path: Path) -> None:
        """See `Files.create`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o644))

    def append(self, path: Path, data: bytes) -> None:
        """See `Files.append`."""
        with _opened(path, os.O_WRONLY | os.O_APPEND) as fd:
            view = memoryview(data)
            while view:  # a signal or a full disk may cut a write short
                view = view[os.write(fd, view) :]

    def truncate(self, path: Path, size: int) -> None:
        """See `Files.truncate`."""
        with _opened(path, os.O_WRONLY) as fd:
            os.ftruncate(fd, size)

    def fsync_file(self, path: Path) -> None:
        """See `Files.fsync_file`."""
        with _opened(path, os.O_RDONLY) as fd:
            os.fsync(fd)

    def fsync_dir(self, path: Path) -> None:
        """See `Files.fsync_dir`."""
        with _opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """See `Files.rename`."""
        source.rename(target)

    def link(self, source: Path, target: Path) -> None:
        """See `Files.link`."""
        os.link(source, target, follow_symlinks=False)

    def mkdir(self, path: Path) -> None:
        """See `Files.mkdir`."""
        path.mkdir()

    def unlink(self, path: Path) -> None:
        """See `Files.unlink`."""
        path.unlink()

    def rmdir(self, path: Path) -> None:
        """See `Files.rmdir`."""
        path.rmdir()

    def listdir(self, path: Path) -> list[str]:
        """See `Files.listdir`."""
        return sorted(child.name for child in path.iterdir())

    def stat(self, path: Path) -> FileStat:
        """See `Files.stat`."""
        found = os.lstat(path)
        if stat_module.S_ISREG(found.st_mode):
            return FileStat(FileKind.FILE, found.st_size)
        if stat_module.S_ISDIR(found.st_mode):
            return FileStat(FileKind.DIRECTORY, 0)
        return FileStat(FileKind.OTHER, 0)

    def read(self, path: Path, limit: int) -> bytes:
        """See `Files.read`."""
        with _reader(path) as file:
            return file.read(limit)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """See `Files.read_at`."""
        with _reader(path) as file:
            file.seek(offset)
            return file.read(size)

    def read_blocks(self, path: Path, size: int = READ_BYTES) -> Iterator[bytes]:
        """See `Files.read_blocks`."""
        with _reader(path) as file:
            while block := file.read(size):
                yield block

    def free_bytes(self, path: Path) -> int:
        """See `Files.free_bytes`."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """See `Files.lock`. The kernel drops the lock when its holder dies."""
        with _opened(path, os.O_RDWR | os.O_CREAT) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    # O_NOFOLLOW: a link put in place of a checked file must not lead out of the bundle.
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[BinaryIO]:
    # O_NONBLOCK: a pipe put in place of a checked file must not hang the daemon.
    with (
        _opened(path, os.O_RDONLY | os.O_NONBLOCK) as fd,
        os.fdopen(fd, "rb", closefd=False) as file,
    ):
        yield file


def exists(files: Files, path: Path) -> bool:
    """Whether anything, be it a broken link, has that name."""
    try:
        files.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def write_atomically(files: Files, path: Path, data: bytes) -> None:
    """Replace `path` by a file of these bytes; durable when it returns.

    A crash leaves the old file or the new one, and perhaps `<name>.tmp` beside it.
    """
    draft = path.with_name(path.name + ".tmp")
    if exists(files, draft):  # left by a crash
        files.unlink(draft)
    files.create(draft)
    files.append(draft, data)
    files.fsync_file(draft)  # before the rename, or the new name could hold no bytes
    files.rename(draft, path)
    files.fsync_dir(path.parent)


def make_dirs(files: Files, path: Path) -> None:
    """Make a directory and its missing parents, durably. Existing ones are left alone."""
    if path.parent == path:
        return
    make_dirs(files, path.parent)
    if not exists(files, path):
        files.mkdir(path)
    try:
        # Even when it was there: its maker may have been killed before this line.
        files.fsync_dir(path.parent)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise


def remove_tree(files: Files, path: Path) -> None:
    """Remove a file or a directory with all it holds; nothing is promised to be durable."""
    if files.stat(path).kind is not FileKind.DIRECTORY:
        files.unlink(path)
        return
    for name in files.listdir(path):
        remove_tree(files, path / name)
    files.rmdir(path)
