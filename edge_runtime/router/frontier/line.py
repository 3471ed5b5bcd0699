"""One exchange in a task of its own, so that its answer can be read on by somebody else.

Rules
- Who asked may give up waiting at any time; the exchange goes on until `leave`.
- Leaving before the answer was read to its end closes the connection (see `transport`).
- After `leave` nothing is sent any more, and nothing more is known of the call.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from edge_runtime.router.frontier.events import DONE, Gathered, SseReader
from edge_runtime.router.frontier.transport import Answer, Sent, Target, Transport

_FIRST_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,200})"')
_ID_WITHIN_BYTES = 4096
MAX_ID_CHARS = 200


class Line:
    """See the module. Use inside a running loop; `leave` it, then wait for `closed`."""

    def __init__(self, transport: Transport, target: Target, body: bytes, sent: Sent) -> None:
        self._opened: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(
            self._hold(transport, target, body, sent), name="edge-frontier-exchange"
        )

    async def answer(self) -> Answer:
        """Wait for the headers. Raises what `Transport.post` raises."""
        return await asyncio.shield(self._opened)

    def leave(self) -> None:
        """Let go of the exchange; a request that has not left yet never does."""
        self._leave.set()
        if not self._opened.done():
            self._task.cancel()

    async def closed(self) -> None:
        """Wait until nothing of it is open."""
        await asyncio.wait({self._task})

    async def _hold(self, transport: Transport, target: Target, body: bytes, sent: Sent) -> None:
        try:
            async with transport.post(target, body, sent) as answer:
                self._opened.set_result(answer)
                await self._leave.wait()
        except asyncio.CancelledError:
            self._opened.cancel()
            raise
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)
            self._opened.exception()  # nobody may be there any more to be told


@dataclass(slots=True)
class Rest:
    """An answer as far as it was read, and the line the rest comes on.

    `gathered` is None for an answer that comes whole.
    """

    line: Line
    max_bytes: int
    reader: SseReader
    gathered: Gathered | None = None
    received: list[bytes] = field(default_factory=list)
    size: int = 0

    async def whole(self) -> bytes:
        """The body. Raises `ValueError` past its bound, and `BrokenOffError`."""
        answer = await self.line.answer()
        while piece := await answer.piece():
            self.count(piece)
            self.received.append(piece)
        return b"".join(self.received)

    def count(self, piece: bytes) -> None:
        """Bound what is read. Raises `ValueError`."""
        self.size += len(piece)
        if self.size > self.max_bytes:
            raise ValueError(f"the answer is larger than {self.max_bytes} bytes")

    async def read_on(self) -> object:
        """Read to the end; the answer's `usage`, whatever it is. Raises as `whole` does."""
        if self.gathered is None:
            body = orjson.loads(await self.whole())
            return body.get("usage") if isinstance(body, dict) else None
        answer = await self.line.answer()
        while piece := await answer.piece():
            self.count(piece)
            for data in self.reader.feed(piece):
                if data.strip() == DONE:
                    return self.gathered.usage
                self._add(data)
        return self.gathered.usage

    def _add(self, data: str) -> None:
        chunk: Any = orjson.loads(data)
        if self.gathered is not None and isinstance(chunk, Mapping):
            self.gathered.add(chunk)

    @property
    def remote_id(self) -> str:
        """The frontier's own id of the call; empty while it has not said one."""
        if self.gathered is not None:
            return self.gathered.remote_id[:MAX_ID_CHARS]
        found = _FIRST_ID.search(b"".join(self.received[:4])[:_ID_WITHIN_BYTES])
        return "" if found is None else found[1].decode("utf-8", "replace")
