"""Joining a fleet: a one-time claim becomes a credential of the box's own. See `protocol.enrol`.

Rules
- The key is stored before it is shown to anybody: whatever is cut off, asking again with the same
  claim goes on where it stopped.
- Only HTTPS, but for loopback: a claim that is overheard lets somebody else in.
- Nothing is used of an answer that was not granted to this key's request over this connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import structlog

from edge_runtime.agent.credential import (
    Credential,
    CredentialStore,
    new_credential,
    signing_request,
)
from edge_runtime.agent.protocol import (
    ENROL_PATH,
    ROTATE_PATH,
    EnrolAnswer,
    EnrolRequest,
    Grant,
    Hardware,
    RotateRequest,
    Versions,
)
from edge_runtime.bundle.envelope import public_pem
from edge_runtime.errors import BundleError, ConfigError, TransportError, UsageError

log: Final = structlog.get_logger("edge_runtime.agent")

_RETRY = frozenset({408, 429, 500, 502, 503, 504})
_TIMEOUT_S: Final = 60.0
RETRY_AFTER_S: Final = 10.0


class EnrolApi(Protocol):
    """The two calls of enrolment; answers with a status and a body."""

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Raises `TransportError`."""

    async def get(self, path: str) -> tuple[int, bytes]:
        """Raises `TransportError`."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a box says of itself when it asks to be let in."""

    hardware: Hardware
    versions: Versions
    box: str | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Enrolment:
    """Runs one enrolment, or goes on with one. `wait` sleeps; `told` hears of progress."""

    api: EnrolApi
    credentials: CredentialStore
    introduction: Introduction
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep
    told: Callable[[str], None] = lambda text: None

    async def run(self, url: str, claim: str) -> Grant:
        """Ask, wait for the approval, keep the credential.

        Raises `UsageError` when it is refused, `TransportError` when nobody answers at first.
        """
        held = await asyncio.to_thread(self.credentials.load)
        if held is not None and held.grant is not None:
            raise UsageError(
                f"this box is enrolled as {held.grant.principal} already; "
                f"remove {self.credentials.directory} first if it shall join another fleet"
            )
        if held is None or held.url != url:
            held = new_credential(url)
            await asyncio.to_thread(self.credentials.save, held)
        answer = await self._ask(held, claim)
        await asyncio.to_thread(
            self.credentials.save, held.model_copy(update={"ticket": answer.ticket})
        )
        while answer.state == "pending":
            self.told(f"waiting for approval{f': {answer.reason}' if answer.reason else ''}")
            await self.wait(answer.poll_after_s)
            answer = await self._poll(answer)
        if answer.grant is None:
            raise UsageError(f"the control host refused this box: {answer.reason}")
        granted = held.model_copy(update={"ticket": None, "grant": answer.grant})
        await asyncio.to_thread(self.credentials.save, granted)
        return answer.grant

    async def _ask(self, held: Credential, claim: str) -> EnrolAnswer:
        key = held.key()
        try:
            request = EnrolRequest(
                claim=claim,
                box=self.introduction.box,
                public_key_pem=public_pem(key.public_key()).decode(),
                csr_pem=signing_request(key, self.introduction.box or "box"),
                hardware=self.introduction.hardware,
                versions=self.introduction.versions,
                labels=self.introduction.labels,
            )
        except ValueError as error:
            raise UsageError("the claim, the box's name or a label cannot be as given") from error
        status, body = await self.api.post(ENROL_PATH, request.sealed([key]))
        return read_answer(status, body)

    async def _poll(self, before: EnrolAnswer) -> EnrolAnswer:
        try:
            status, body = await self.api.get(f"{ENROL_PATH}/{before.ticket}")
            return read_answer(status, body)
        except TransportError as error:
            self.told(f"{error}; asking again")
            return before


async def rotate(api: EnrolApi, credentials: CredentialStore, issued_s: int) -> None:
    """A new key and a credential for it; the old one holds until the new one was used.

    Raises `TransportError`, or `UsageError` when the control host refuses.
    """
    held = await asyncio.to_thread(credentials.load)
    if held is None or held.grant is None:
        raise UsageError("this box is not enrolled")
    fresh = new_credential(held.url)
    key, principal = fresh.key(), held.grant.principal
    request = RotateRequest(
        principal=principal,
        issued_s=issued_s,
        public_key_pem=public_pem(key.public_key()).decode(),
        csr_pem=signing_request(key, principal),
    )
    answer = read_answer(*await api.post(ROTATE_PATH, request.sealed([held.key()])))
    if answer.grant is None or answer.grant.principal != principal:
        raise UsageError(f"the control host gave no new credential: {answer.reason}")
    granted = fresh.model_copy(update={"grant": answer.grant})
    await asyncio.to_thread(credentials.save, granted)
    log.info("credential rotated", action="credential_rotated")


def read_answer(status: int, body: bytes) -> EnrolAnswer:
    """The answer of a status and a body. Raises `TransportError` or `UsageError`."""
    if status in (200, 202):
        try:
            return EnrolAnswer.from_bytes(body)
        except BundleError as error:
            raise TransportError(f"the control host's answer cannot be read: {error}") from error
    text = body[:300].decode("utf-8", "replace")
    said = "".join(char if char.isprintable() else " " for char in text)
    if status in _RETRY:
        raise TransportError(f"the control host answered {status}: {said}")
    raise UsageError(f"the control host refused ({status}): {said}")


def check_url(url: str) -> str:
    """A control host's base URL without a slash at its end. Raises `ConfigError`."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(f"{url}: is no base URL of a control host, like https://fleet.example")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigError(f"{url}: a claim is sent over https only")
    return url.rstrip("/")


@dataclass(slots=True)
class HttpApi:
    """An `EnrolApi` over aiohttp. `ca` is a PEM file of a private authority."""

    url: str
    ca: Path | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """See `EnrolApi`."""
        return await self._call("POST", path, body)

    async def get(self, path: str) -> tuple[int, bytes]:
        """See `EnrolApi`."""
        return await self._call("GET", path, None)

    async def _call(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self.ca}: cannot be used as an authority: {error}") from error
        try:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
            headers = {"Content-Type": "application/json"}
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method,
                    self.url + path,
                    data=body,
                    headers=headers if body is not None else {},
                    ssl=context,
                    allow_redirects=False,
                ) as response,
            ):
                data = await response.content.read(EnrolAnswer.max_bytes + 1)
                return response.status, data
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TransportError(f"{self.url}: {str(error) or type(error).__name__}") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
