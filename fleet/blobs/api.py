"""Routes that serve blobs and trust metadata: enough for a demo, a lab or a small fleet.

- `GET`, `HEAD /v1/blob/sha256/<hex>`: immutable; `ETag`, `Range`, `If-Range`, `If-None-Match`.
- `GET`, `HEAD /v1/tuf/<file>`: TUF metadata; versioned files are immutable, `timestamp.json` not.

Rules
- What is served is public to whoever may reach it: blobs are verified by the box, not by the way
  they came. Who may reach it is the caller's (middleware's) to say.
- Only names of the two folders are served: 64 hex digits, or a metadata file's name. Links are not
  followed.
- At most `max_transfers` at once, and a client that takes nothing for `stall_timeout_s` is cut off.

For thousands of boxes put nginx in front of the same two folders: see docs/howto.

Example::

    app.add_routes(blob_routes(repository_path))
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from pathlib import Path

from aiohttp import web

from fleet.blobs.ranges import Part, choose_part, matches

CHUNK_BYTES = 256 * 1024
_FOREVER = "public, max-age=31536000, immutable"
_METADATA = re.compile(r"timestamp\.json|[1-9][0-9]{0,8}\.[a-z0-9][a-z0-9._-]{0,127}\.json")
_RETRY_AFTER_S = 5


def blob_routes(
    root: Path, *, max_transfers: int = 64, stall_timeout_s: float = 60.0
) -> list[web.RouteDef]:
    """Routes over the repository folder `root`; see the module."""
    server = _Files(root, max_transfers, stall_timeout_s)
    return [
        web.get(r"/v1/blob/sha256/{digest:[0-9a-f]{64}}", server.blob),  # serves HEAD too
        web.get("/v1/tuf/{file}", server.metadata),
    ]


class _Files:
    def __init__(self, root: Path, max_transfers: int, stall_timeout_s: float) -> None:
        self._root = root
        self._free = max_transfers
        self._stall_timeout_s = stall_timeout_s

    async def blob(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        return await self._serve(
            request, self._root / "blobs" / "sha256" / digest, digest, "application/octet-stream"
        )

    async def metadata(self, request: web.Request) -> web.StreamResponse:
        file = request.match_info["file"]
        if not _METADATA.fullmatch(file):
            return _missing()
        etag = None if file == "timestamp.json" else file
        return await self._serve(request, self._root / "metadata" / file, etag, "application/json")

    async def _serve(
        self, request: web.Request, path: Path, version: str | None, content_type: str
    ) -> web.StreamResponse:
        if self._free <= 0:
            raise web.HTTPServiceUnavailable(
                text="all transfers are taken; try again\n",
                headers={"Retry-After": str(_RETRY_AFTER_S)},
            )
        self._free -= 1
        try:
            return await self._send(request, path, version, content_type)
        finally:
            self._free += 1

    async def _send(
        self, request: web.Request, path: Path, version: str | None, content_type: str
    ) -> web.StreamResponse:
        opened = await asyncio.to_thread(_open, path)
        if opened is None:
            return _missing()
        fd, size = opened
        try:
            etag = f'"{version}"'
            headers = {
                "Cache-Control": "no-cache" if version is None else _FOREVER,
                "Content-Type": content_type,
                "X-Content-Type-Options": "nosniff",
            }
            part: Part | None = Part(0, size, size, whole=True)
            if version is not None:
                headers |= {"ETag": etag, "Accept-Ranges": "bytes"}
                if matches(etag, request.headers.get("If-None-Match")):
                    return web.Response(status=304, headers=headers)
                asked, condition = request.headers.get("Range"), request.headers.get("If-Range")
                part = choose_part(size, etag, asked, condition)
            if part is None:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
            return await self._stream(request, fd, part, headers)
        finally:
            await asyncio.to_thread(os.close, fd)

    async def _stream(
        self, request: web.Request, fd: int, part: Part, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=200 if part.whole else 206, headers=headers)
        response.content_length = part.stop - part.start
        if not part.whole:
            response.headers["Content-Range"] = part.content_range
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        at = part.start
        while at < part.stop:
            wanted = min(CHUNK_BYTES, part.stop - at)
            data = await asyncio.to_thread(os.pread, fd, wanted, at)
            if not data:  # cut short by somebody: end the connection, not the answer
                raise ConnectionResetError("the file became shorter while it was sent")
            async with asyncio.timeout(self._stall_timeout_s):
                await response.write(data)
            at += len(data)
        return response


def _open(path: Path) -> tuple[int, int] | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        return None
    return fd, found.st_size


def _missing() -> web.Response:
    return web.Response(status=404, text="no such file\n", headers={"Cache-Control": "no-store"})
