"""The disk and its in-memory twin answer alike; the twin loses what was not synced."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.files import (
    FileKind,
    Files,
    FileStat,
    RealFiles,
    exists,
    make_dirs,
    remove_tree,
    write_atomically,
)


@pytest.fixture(params=["real", "crash"])
def layer(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, Path]:
    if request.param == "real":
        return RealFiles(), tmp_path
    files = CrashFiles()
    files.mkdir(Path("/t"))
    return files, Path("/t")


def put(files: Files, path: Path, data: bytes = b"abc") -> None:
    files.create(path)
    files.append(path, data)


def test_calls_do_what_they_say(layer: tuple[Files, Path]) -> None:
    files, root = layer
    put(files, root / "a")
    files.append(root / "a", b"defg")
    files.fsync_file(root / "a")
    files.truncate(root / "a", 5)
    files.mkdir(root / "d")
    files.link(root / "a", root / "d" / "b")
    files.rename(root / "a", root / "c")
    files.fsync_dir(root)
    assert files.listdir(root) == ["c", "d"]
    assert files.read(root / "d" / "b", 3) == b"abc"
    assert list(files.read_blocks(root / "c", 2)) == [b"ab", b"cd", b"e"]
    assert files.stat(root / "c") == FileStat(FileKind.FILE, 5)
    assert files.stat(root / "d") == FileStat(FileKind.DIRECTORY, 0)
    files.unlink(root / "c")
    assert files.read(root / "d" / "b", 99) == b"abcde"
    files.unlink(root / "d" / "b")
    files.rmdir(root / "d")
    assert files.listdir(root) == []
    assert files.free_bytes(root) > 0


BAD_CALLS: list[tuple[str, Callable[[Files, Path], object], int]] = [
    ("create twice", lambda f, r: f.create(r / "file"), errno.EEXIST),
    ("mkdir twice", lambda f, r: f.mkdir(r / "full"), errno.EEXIST),
    ("link over", lambda f, r: f.link(r / "file", r / "full" / "x"), errno.EEXIST),
    ("create nowhere", lambda f, r: f.create(r / "no" / "x"), errno.ENOENT),
    ("append nowhere", lambda f, r: f.append(r / "no", b""), errno.ENOENT),
    ("sync nothing", lambda f, r: f.fsync_file(r / "no"), errno.ENOENT),
    ("sync file as directory", lambda f, r: f.fsync_dir(r / "file"), errno.ENOTDIR),
    ("rename nothing", lambda f, r: f.rename(r / "no", r / "x"), errno.ENOENT),
    ("unlink nothing", lambda f, r: f.unlink(r / "no"), errno.ENOENT),
    ("unlink directory", lambda f, r: f.unlink(r / "full"), errno.EISDIR),
    ("rmdir full", lambda f, r: f.rmdir(r / "full"), errno.ENOTEMPTY),
    ("rmdir file", lambda f, r: f.rmdir(r / "file"), errno.ENOTDIR),
    ("list file", lambda f, r: f.listdir(r / "file"), errno.ENOTDIR),
    ("below file", lambda f, r: f.stat(r / "file" / "x"), errno.ENOTDIR),
    ("read directory", lambda f, r: f.read(r / "full", 1), errno.EISDIR),
    ("rename over full", lambda f, r: f.rename(r / "empty", r / "full"), errno.ENOTEMPTY),
    ("free of nothing", lambda f, r: f.free_bytes(r / "no"), errno.ENOENT),
]


@pytest.mark.parametrize(
    ("call", "code"), [b[1:] for b in BAD_CALLS], ids=[b[0] for b in BAD_CALLS]
)
def test_bad_calls_fail_alike_and_change_nothing(
    layer: tuple[Files, Path], call: Callable[[Files, Path], object], code: int
) -> None:
    files, root = layer
    put(files, root / "file")
    files.mkdir(root / "empty")
    files.mkdir(root / "full")
    put(files, root / "full" / "x")
    with pytest.raises(OSError, match=r".") as caught:
        call(files, root)
    assert caught.value.errno == code
    assert files.listdir(root) == ["empty", "file", "full"]
    assert files.read(root / "file", 9) == b"abc"


def test_a_lock_has_one_holder(layer: tuple[Files, Path]) -> None:
    files, root = layer
    with files.lock(root / "lock"):
        with pytest.raises(BlockingIOError), files.lock(root / "lock"):
            pass
        with files.lock(root / "other"):
            pass
    with files.lock(root / "lock"):
        assert files.stat(root).kind is FileKind.DIRECTORY


def test_write_atomically_replaces_and_clears_an_old_draft(layer: tuple[Files, Path]) -> None:
    files, root = layer
    put(files, root / "p", b"old")
    put(files, root / "p.tmp", b"torn")
    write_atomically(files, root / "p", b"new")
    assert files.read(root / "p", 9) == b"new"
    assert files.listdir(root) == ["p"]


def test_make_dirs_and_remove_tree(layer: tuple[Files, Path]) -> None:
    files, root = layer
    make_dirs(files, root / "a" / "b" / "c")
    make_dirs(files, root / "a" / "b" / "c")
    put(files, root / "a" / "b" / "x")
    assert exists(files, root / "a" / "b" / "c")
    with pytest.raises(NotADirectoryError):
        make_dirs(files, root / "a" / "b" / "x" / "y")
    remove_tree(files, root / "a")
    assert not exists(files, root / "a")
    put(files, root / "f")
    remove_tree(files, root / "f")
    assert files.listdir(root) == []


def test_make_dirs_needs_no_right_to_sync_foreign_parents() -> None:
    def deny(method: str, path: Path) -> None:
        if (method, path) == ("fsync_dir", Path("/")):
            raise OSError(code, os.strerror(code))

    code = errno.EACCES
    make_dirs(CrashFiles(on_call=deny), Path("/a/b"))
    code = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        make_dirs(CrashFiles(on_call=deny), Path("/a/b"))


def test_the_disk_does_not_follow_links(tmp_path: Path) -> None:
    files = RealFiles()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    assert files.stat(tmp_path / "link").kind is FileKind.OTHER
    for call in (
        lambda: files.read(tmp_path / "link", 9),
        lambda: next(files.read_blocks(tmp_path / "link")),
        lambda: files.append(tmp_path / "link", b"x"),
    ):
        with pytest.raises(OSError, match="symbolic links"):
            call()
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_a_pipe_does_not_hang_a_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert RealFiles().read(tmp_path / "pipe", 9) == b""


def outcomes(files: CrashFiles) -> list[object]:
    return [
        crash.files.tree() for crash in files.crashes(after=[len(files.calls)], seeds=range(40))
    ]


def test_unsynced_names_and_bytes_may_be_lost_apart() -> None:
    files = CrashFiles()
    put(files, Path("/a"), b"xy")
    found = outcomes(files)
    assert {} in found
    assert {"a": b""} in found  # the name without the bytes
    assert {"a": b"x"} in found  # cut short
    assert {"a": b"x\0"} in found  # grown, but not all written
    assert {"a": b"xy"} in found


def test_synced_bytes_need_a_synced_name() -> None:
    files = CrashFiles()
    put(files, Path("/a"), b"xy")
    files.fsync_file(Path("/a"))
    assert outcomes(files) == [{}, {"a": b"xy"}]
    files.fsync_dir(Path("/"))
    assert outcomes(files) == [{"a": b"xy"}]


def test_a_rename_happens_wholly_or_not_and_is_durable_by_its_target() -> None:
    files = CrashFiles()
    for name in ("s", "t"):
        files.mkdir(Path("/") / name)
    put(files, Path("/s/a"))
    files.sync()
    files.rename(Path("/s/a"), Path("/t/b"))
    before, after = {"s": {"a": b"abc"}, "t": {}}, {"s": {}, "t": {"b": b"abc"}}
    assert outcomes(files) == [before, after]
    files.fsync_dir(Path("/s"))
    assert outcomes(files) == [before, after]
    files.fsync_dir(Path("/t"))
    assert outcomes(files) == [after]


def test_names_of_one_directory_arrive_in_order() -> None:
    files = CrashFiles()
    for name in "abc":
        files.create(Path("/") / name)
    found = outcomes(files)
    assert len(found) == 4
    for tree in ({}, {"a": b""}, {"a": b"", "b": b""}, {"a": b"", "b": b"", "c": b""}):
        assert tree in found


def test_an_unlink_and_a_truncation_may_come_back() -> None:
    files = CrashFiles()
    put(files, Path("/a"), b"xy")
    put(files, Path("/b"), b"xy")
    files.sync()
    files.unlink(Path("/a"))
    files.truncate(Path("/b"), 1)
    found = outcomes(files)
    for tree in ({"a": b"xy", "b": b"xy"}, {"b": b"xy"}, {"a": b"xy", "b": b"x"}, {"b": b"x"}):
        assert tree in found
    assert len(found) == 4


def test_crashes_cover_every_call_and_name_their_outcome() -> None:
    files = CrashFiles()
    put(files, Path("/a"))
    files.fsync_file(Path("/a"))
    crashes = list(files.crashes())
    assert {crash.calls_made for crash in crashes} == {0, 1, 2, 3}
    assert [crash.outcome for crash in crashes if crash.calls_made == 3] == [
        "nothing",
        "everything",
    ]
    assert [call.method for call in files.calls] == ["create", "append", "fsync_file"]


@given(st.lists(st.binary(max_size=6), max_size=4), st.integers(0, 3), st.integers(0, 2**16))
def test_bytes_survive_as_a_prefix_of_writes_beyond_the_last_fsync(
    writes: list[bytes], synced: int, seed: int
) -> None:
    files, path = CrashFiles(), Path("/log")
    files.create(path)
    files.fsync_dir(Path("/"))
    for number, data in enumerate(writes):
        files.append(path, data)
        if number + 1 == synced:
            files.fsync_file(path)
    durable = b"".join(writes[:synced]) if synced <= len(writes) else b""
    whole = b"".join(writes)
    for crash in files.crashes(after=[len(files.calls)], seeds=[seed]):
        data = crash.files.read(path, 99)
        assert data.startswith(durable)
        assert whole.startswith(data.rstrip(b"\0"))  # what is not there yet reads as zeros
        assert len(data) <= len(whole)


def test_a_failing_call_has_no_effect() -> None:
    def full(method: str, path: Path) -> None:
        raise OSError(errno.ENOSPC, f"{method} {path}")

    files = CrashFiles(on_call=full)
    with pytest.raises(OSError, match="create /a"):
        files.create(Path("/a"))
    assert (files.tree(), files.calls) == ({}, [])
