"""Blobs on their way in: streamed to a draft, hashed as they come, kept when they are as said.

Rules
- A blob is as long as the sender said beforehand, and its bytes hash to its name; else nothing of
  it is kept. Half a blob is never named by anything.
- Bounded: bytes a blob, uploads at once, room left on the disk, time without a byte.
- Drafts lie in a folder of their own, which the start of an upload empties of what a crash left.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.bundle.digests import FileDigest
from edge_runtime.bundle.files import make_dirs
from edge_runtime.errors import CapacityError, UsageError
from fleet.publish.repository import Repository

MAX_AT_ONCE = 4
STALL_S = 60.0
OLD_DRAFT_S = 86_400.0
_RETRY_S = 10.0
_LOCK_TRIES = 30
_FLUSH_BYTES = 4 * 1024 * 1024


@dataclass
class Uploads:
    """Takes blobs into `repository`."""

    repository: Repository
    max_bytes: int
    min_free_bytes: int
    stall_s: float = STALL_S
    _now: int = field(default=0, init=False)
    _number: int = field(default=0, init=False)

    async def take(self, digest: str, size: int | None, chunks: AsyncIterator[bytes]) -> int:
        """Keep one blob; the bytes that were new. Durable on return.

        Raises `BundleError` for a name that is no sha256, `UsageError` for another size or other
        bytes than were said, `CapacityError` when there is no room.
        """
        target = self.repository.blobs.path(digest)
        if size is None:
            raise UsageError("say the size by content-length", code="length_required", status=411)
        if size > self.max_bytes:
            raise UsageError(
                f"a blob of {size} bytes; publish.max_blob_bytes allows {self.max_bytes}",
                code="too_large",
                status=413,
            )
        if await asyncio.to_thread(self.repository.blobs.has, digest):
            return 0
        if self._now >= MAX_AT_ONCE:
            raise CapacityError("too many uploads at once; try again", retry_after_s=_RETRY_S)
        self._now += 1
        try:
            return await self._take(digest, size, chunks, target)
        finally:
            self._now -= 1

    async def _take(
        self, digest: str, size: int, chunks: AsyncIterator[bytes], target: Path
    ) -> int:
        folder = self.repository.root_path / "uploads"
        await asyncio.to_thread(self._prepare, folder, size)
        self._number += 1
        draft = folder / f"{os.getpid()}-{self._number}"
        try:
            await self._receive(digest, size, chunks, draft)
            return await self._keep(draft, FileDigest(size, digest, ()))
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)

    def _prepare(self, folder: Path, size: int) -> None:
        make_dirs(self.repository.files, folder)
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > OLD_DRAFT_S:
                    path.unlink()
        # A draft and the blob are there at once for a moment.
        if self.repository.files.free_bytes(folder) < 2 * size + self.min_free_bytes:
            raise CapacityError(
                f"no room for {size} bytes beside publish.min_free_bytes; make some",
                retry_after_s=3600.0,
                status=507,
                reason="no_room",
            )

    async def _receive(
        self, digest: str, size: int, chunks: AsyncIterator[bytes], draft: Path
    ) -> None:
        hasher, got, waiting = hashlib.sha256(), 0, bytearray()
        with await asyncio.to_thread(draft.open, "xb") as file:
            while True:
                try:
                    async with asyncio.timeout(self.stall_s):
                        chunk = await anext(chunks, None)
                except TimeoutError as error:
                    raise UsageError(
                        f"nothing came for {self.stall_s:.0f} s", code="stalled", status=408
                    ) from error
                if chunk is not None:
                    got += len(chunk)
                    waiting += chunk
                if got > size:
                    break
                if chunk is None or len(waiting) >= _FLUSH_BYTES:
                    await asyncio.to_thread(_write, file, hasher, bytes(waiting))
                    waiting.clear()
                if chunk is None:
                    break
        if got != size:
            raise UsageError(f"{size} bytes were said and others came", code="other_size")
        if hasher.hexdigest() != digest:
            raise UsageError(
                f"these bytes are {hasher.hexdigest()}, not {digest}", code="other_digest"
            )

    async def _keep(self, draft: Path, digest: FileDigest) -> int:
        """Into the store, as soon as nobody else publishes."""
        for left in reversed(range(_LOCK_TRIES)):
            try:
                return await asyncio.to_thread(self._put, draft, digest)
            except CapacityError:
                if not left:
                    raise
            await asyncio.sleep(0.2)
        raise AssertionError("the loop returns or raises")

    def _put(self, draft: Path, digest: FileDigest) -> int:
        with self.repository.locked():
            return self.repository.blobs.put_file(draft, digest)


def _write(file: Any, hasher: Any, data: bytes) -> None:
    hasher.update(data)
    file.write(data)
