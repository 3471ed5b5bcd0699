"""Where trust metadata is fetched from. A source need not be trusted; it can only be late.

`HttpMetadata` asks a web server; `MemoryMetadata` is its twin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import aiohttp

from edge_runtime.errors import TransportError

HTTP_OK = 200
HTTP_MISSING = frozenset({403, 404, 410})


class MissingError(TransportError):
    """The source has no file of that name."""


class MetadataSource(Protocol):
    """Files by name, for example `3.root.json`. Called from a worker thread; may block."""

    @property
    def name(self) -> str:
        """Names the source in messages."""

    def get(self, file: str, limit: int) -> bytes:
        """The bytes of a file, never more than `limit` + 1 of them.

        Raises `MissingError` when it has no such file, else `TransportError`.
        """


class MemoryMetadata:
    """Files in a dict, which may be changed between calls; `down` makes every call fail.

    `asked` lists the names of files asked for.
    """

    def __init__(self, files: Mapping[str, bytes], name: str = "memory") -> None:
        self.name = name
        self.files = dict(files)
        self.down = False
        self.asked: list[str] = []

    def get(self, file: str, limit: int) -> bytes:
        """See `MetadataSource.get`."""
        self.asked.append(file)
        if self.down:
            raise TransportError(f"{self.name} cannot be reached")
        if file not in self.files:
            raise MissingError(f"{self.name} has no {file}")
        return self.files[file][: limit + 1]


class HttpMetadata:
    """Files below a base URL, through a client session that lives on `loop`.

    `timeout_s` bounds one whole file, so a server that sends a byte a minute is given up.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        timeout_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.name = base_url.rstrip("/")
        self._session = session
        self._timeout_s = timeout_s
        self._loop = loop

    def get(self, file: str, limit: int) -> bytes:
        """See `MetadataSource.get`. Must not be called on the loop's own thread."""
        return asyncio.run_coroutine_threadsafe(self._get(file, limit), self._loop).result()

    async def _get(self, file: str, limit: int) -> bytes:
        url = f"{self.name}/{file}"
        try:
            timeout = aiohttp.ClientTimeout(total=self._timeout_s)
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as reply:
                if reply.status in HTTP_MISSING:
                    raise MissingError(f"{self.name} has no {file}")
                if reply.status != HTTP_OK:
                    raise TransportError(f"{url} answered {reply.status}; try again later")
                data = bytearray()
                while len(data) <= limit and (chunk := await reply.content.read(64 * 1024)):
                    data += chunk
                return bytes(data[: limit + 1])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise TransportError(f"{url}: {reason}; try again later") from error
