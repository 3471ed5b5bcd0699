"""Where blobs come from. A source need not be trusted: every block is held against its signed hash.

`HttpBlobs` asks a web server for ranges; `MemoryBlobs` is its twin, with faults.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Protocol

import aiohttp

from edge_runtime.agent.download.accounts import Fault
from edge_runtime.agent.download.clock import Clock
from edge_runtime.errors import TransportError

CHUNK_BYTES = 64 * 1024
_OK, _PARTIAL = 200, 206
_MISSING = frozenset({404, 410})


class SourceError(TransportError):
    """A source did not send what was asked for; `fault` says in which way."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault


class BlobSource(Protocol):
    """Ranges of blobs by their sha256."""

    @property
    def name(self) -> str:
        """Names the source in messages."""

    def read(self, sha256: str, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Pieces of `length` bytes from `start`. What comes is not checked here.

        Raises `SourceError`.
        """


class HttpBlobs:
    """`GET <base>/v1/blob/sha256/<hex>` by range, with a session that the caller owns.

    `stall_timeout_s` bounds every wait for bytes. Servers that ignore `Range` are refused unless
    the whole blob was asked for. Redirects are not followed.
    """

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, *, stall_timeout_s: float = 30.0
    ) -> None:
        self.name = base_url.rstrip("/")
        self._session = session
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=stall_timeout_s, sock_read=stall_timeout_s
        )

    async def read(self, sha256: str, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """See `BlobSource.read`."""
        url = f"{self.name}/v1/blob/sha256/{sha256}"
        # No If-Range: a blob never changes under its name, and servers that make ETags of their
        # own (nginx, object stores) would answer the whole blob to ours.
        headers = {
            "Range": f"bytes={start}-{start + length - 1}",
            "Accept-Encoding": "identity",
        }
        try:
            async with self._session.get(
                url, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as reply:
                _check(reply, start, length)
                async for chunk in reply.content.iter_chunked(CHUNK_BYTES):
                    yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise SourceError(Fault.FAILED, reason) from error


def _check(reply: aiohttp.ClientResponse, start: int, length: int) -> None:
    if reply.status in _MISSING:
        raise SourceError(Fault.MISSING, "does not have it")
    if reply.status == _PARTIAL:
        span = reply.headers.get("Content-Range", "").partition("/")[0]
        if span != f"bytes {start}-{start + length - 1}":
            raise SourceError(Fault.FAILED, f"sent the range {span!r:.60}, not the one asked for")
    elif reply.status != _OK or start != 0 or reply.content_length not in (None, length):
        raise SourceError(Fault.FAILED, f"answered {reply.status} to a request for a range")


Trouble = Callable[["MemoryBlobs", str, int], "str | None"]
"""Asked before each read (source, sha256, start): None, or one of the words below."""


class MemoryBlobs:
    """Blobs in a dict, with `trouble` on demand; `asked` lists (sha256, start, length).

    Words of `trouble`: `corrupt` (a bit is wrong), `truncate` (half of it comes), `endless` (more
    comes than was asked for), `missing`, `refuse`, `disconnect` (half, then an error), `slow`
    (a piece an hour, by `clock`).
    """

    def __init__(
        self,
        blobs: Mapping[str, bytes],
        *,
        name: str = "memory",
        trouble: Trouble | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.blobs = dict(blobs)
        self.trouble = trouble
        self.clock = clock
        self.asked: list[tuple[str, int, int]] = []

    async def read(self, sha256: str, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """See `BlobSource.read`."""
        self.asked.append((sha256, start, length))
        word = None if self.trouble is None else self.trouble(self, sha256, start)
        await asyncio.sleep(0)
        if word == "missing" or sha256 not in self.blobs:
            raise SourceError(Fault.MISSING, "does not have it")
        if word == "refuse":
            raise SourceError(Fault.FAILED, "cannot be reached")
        data = self.blobs[sha256][start : start + length]
        if word == "corrupt":
            data = bytes([data[0] ^ 1]) + data[1:]
        elif word == "endless":
            data += b"more"
        elif word in ("truncate", "disconnect"):
            data = data[: len(data) // 2]
        for at in range(0, len(data), CHUNK_BYTES):
            if word == "slow" and self.clock is not None:
                await self.clock.sleep(3600)
            yield data[at : at + CHUNK_BYTES]
            await asyncio.sleep(0)
        if word == "disconnect":
            raise SourceError(Fault.FAILED, "broke off")
