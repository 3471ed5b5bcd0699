"""How bytes get to a frontier and back: what the pool needs of HTTP.

Rules
- A transport decides nothing: no retries, no redirects, no cookies.
- `sent` is called once, before the first byte of the request leaves. After that it is open
  whether the frontier has it, and bills it, until its answer says.
- Leaving `post`'s context before the answer was read to its end closes the connection, which is
  how a frontier learns that nobody waits any more.

`memory.MemoryTransport` is the twin for tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace, TracebackType
from typing import Protocol, Self

import aiohttp

from edge_runtime.errors import ConfigError, TransportError

Sent = Callable[[], None]
KEEPALIVE_S = 15.0  # shorter than servers keep idle connections: they must not close first
DNS_CACHE_S = 60
DRAIN_S = 0.05  # a new connection costs more


class NotSentError(TransportError):
    """No connection was made; the frontier never saw the request."""


class BrokenOffError(TransportError):
    """The connection ended before the answer did."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one frontier is; `key` is its API key, empty for none.

    `call_id` is ours for one request: it goes along as `X-Client-Request-Id`, by which the
    frontier's own books can be searched.
    """

    url: str
    key: str = field(default="", repr=False)
    connect_timeout_s: float = 5.0
    ca_file: str | None = None
    call_id: str = ""


class Answer(Protocol):
    """An answer whose headers came; header names are in lower case."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers."""
        ...

    async def piece(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises `BrokenOffError`."""
        ...


class Transport(Protocol):
    """Sends one request; see the module's rules."""

    def post(
        self, target: Target, body: bytes, sent: Sent
    ) -> contextlib.AbstractAsyncContextManager[Answer]:
        """POST JSON; entering waits for the headers. Raises `NotSentError` or `BrokenOffError`."""
        ...

    def get(self, target: Target) -> contextlib.AbstractAsyncContextManager[Answer]:
        """GET; entering waits for the headers. Raises as `post` does."""
        ...

    async def close(self) -> None:
        """Close idle connections."""
        ...


@dataclass(slots=True)
class _HttpAnswer:
    response: aiohttp.ClientResponse

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return {name.lower(): value for name, value in self.response.headers.items()}

    async def piece(self) -> bytes:
        try:
            return await self.response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenOffError(_told(error)) from error


class HttpTransport:
    """A `Transport` over aiohttp: one session, connections kept for a while.

    Use inside a running loop; `close` it, or use it as a context manager.
    """

    def __init__(self, *, max_connections: int) -> None:
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def post(
        self, target: Target, body: bytes, sent: Sent
    ) -> contextlib.AbstractAsyncContextManager[Answer]:
        """See `Transport.post`."""
        return self._exchange("POST", target, body, sent)

    def get(self, target: Target) -> contextlib.AbstractAsyncContextManager[Answer]:
        """See `Transport.get`."""
        return self._exchange("GET", target, None, lambda: None)

    @contextlib.asynccontextmanager
    async def _exchange(
        self, method: str, target: Target, body: bytes | None, sent: Sent
    ) -> AsyncIterator[Answer]:
        headers = {"Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if target.call_id:
            headers["X-Client-Request-Id"] = target.call_id
        if target.key:
            headers["Authorization"] = f"Bearer {target.key}"
        timeout = aiohttp.ClientTimeout(
            total=None, connect=target.connect_timeout_s, sock_connect=target.connect_timeout_s
        )
        try:
            response = await self._open().request(
                method,
                target.url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,  # a redirect would carry prompt and key elsewhere
                ssl=self._tls(target.ca_file),
                trace_request_ctx=sent,
            )
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
        ) as error:
            raise NotSentError(_told(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenOffError(_told(error)) from error
        try:
            yield _HttpAnswer(response)
        finally:
            if response.content.is_eof():
                response.release()
            else:
                response.close()  # the frontier may stop; nobody reads on

    async def close(self) -> None:
        """See `Transport.close`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._max_connections,
                keepalive_timeout=KEEPALIVE_S,
                ttl_dns_cache=DNS_CACHE_S,
            )
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_headers_sent)
            self._session = aiohttp.ClientSession(
                connector=connector,
                trace_configs=[trace],
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "edge-runtime"},
                requote_redirect_url=False,
            )
        return self._session

    def _tls(self, ca_file: str | None) -> ssl.SSLContext | bool:
        if ca_file is None:
            return True
        if ca_file not in self._contexts:
            self._contexts[ca_file] = ssl.create_default_context(cafile=ca_file)
        return self._contexts[ca_file]


def check_ca_file(path: str) -> None:
    """Raises `ConfigError` when the file holds no certificates."""
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{path}: no certificates in PEM form: {error}") from error


async def drain(answer: Answer) -> None:
    """Let an answer end whose last word came, so that its connection can be used again."""
    with contextlib.suppress(TimeoutError, BrokenOffError):
        async with asyncio.timeout(DRAIN_S):
            while await answer.piece():
                pass


async def read_all(answer: Answer, limit: int) -> bytes:
    """The whole body. Raises `ValueError` when it is larger than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    while piece := await answer.piece():
        size += len(piece)
        if size > limit:
            raise ValueError(f"the answer is larger than {limit} bytes")
        parts.append(piece)
    return b"".join(parts)


async def _headers_sent(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    context.trace_request_ctx()


def _told(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return "timed out" if isinstance(error, asyncio.TimeoutError) else text
