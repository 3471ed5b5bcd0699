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
    """One open stream. A client that stops reading is cut off after `write_timeout_s`, at most
    as long again later: one watch a stream, because a timer a write costs as much as its JSON.

    All writes raise `ConnectionResetError` when the client is gone.
    """

    def __init__(
        self, request: web.Request, headers: Mapping[str, str], write_timeout_s: float
    ) -> None:
        self._request = request
        self._response = web.StreamResponse(headers={**_HEADERS, **headers})
        self._write_timeout_s = write_timeout_s
        self._loop = asyncio.get_running_loop()
        self._waiting_since_s: float | None = None
        self._watch: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Send status and headers; from here on errors travel as events."""
        await self._response.prepare(self._request)
        self._watch_again()

    async def send(self, payload: object) -> None:
        """One data event."""
        await self._write(b"data: " + json_bytes(payload) + b"\n\n")

    async def fail(
        self, error: Exception, edge: Mapping[str, object] | None = None
    ) -> web.StreamResponse:
        """Tell an error and end. No `[DONE]` follows: the answer is not complete."""
        _, body, _ = describe(error)
        await self.send(body if edge is None else {**body, "edge": edge})
        return await self._end()

    async def finish(self) -> web.StreamResponse:
        """Say that the answer is complete, and end."""
        await self._write(b"data: [DONE]\n\n")
        return await self._end()

    async def _end(self) -> web.StreamResponse:
        await self._write(None)
        self._stop_watching()
        return self._response

    async def _write(self, data: bytes | None) -> None:
        """Write, or end the response."""
        self._waiting_since_s = self._loop.time()
        try:
            await (self._response.write_eof() if data is None else self._response.write(data))
        except BaseException:
            self._stop_watching()
            raise
        self._waiting_since_s = None

    def _watch_again(self) -> None:
        self._watch = self._loop.call_later(self._write_timeout_s, self._look)

    def _look(self) -> None:
        since_s, transport = self._waiting_since_s, self._request.transport
        if transport is None or transport.is_closing():
            return
        if since_s is None or self._loop.time() - since_s < self._write_timeout_s:
            self._watch_again()
        else:
            transport.abort()  # the write that waits raises ConnectionResetError

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
