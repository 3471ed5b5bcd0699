"""Server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from edge_runtime.server.replies import describe, json_bytes

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # reverse proxies must not collect tokens
}


class EventStream:
    """One open stream. A client that stops reading is cut off after `write_timeout_s`.

    All writes raise `ConnectionResetError` when the client is gone.
    """

    def __init__(
        self, request: web.Request, headers: Mapping[str, str], write_timeout_s: float
    ) -> None:
        self._request = request
        self._response = web.StreamResponse(headers={**_HEADERS, **headers})
        self._write_timeout_s = write_timeout_s

    async def start(self) -> None:
        """Send status and headers; from here on errors travel as events."""
        await self._response.prepare(self._request)

    async def send(self, payload: object) -> None:
        """One data event."""
        await self._write(b"data: " + json_bytes(payload) + b"\n\n")

    async def fail(self, error: Exception) -> web.StreamResponse:
        """Tell an error and end. No `[DONE]` follows: the answer is not complete."""
        _, body, _ = describe(error)
        await self.send(body)
        await self._response.write_eof()
        return self._response

    async def finish(self) -> web.StreamResponse:
        """Say that the answer is complete, and end."""
        await self._write(b"data: [DONE]\n\n")
        await self._response.write_eof()
        return self._response

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._response.write(data)
        except TimeoutError as error:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client stopped reading") from error
