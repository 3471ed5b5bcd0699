"""Looking at rules, and telling a webhook: as often as it takes, within bounds.

Rules
- What is to be told is stored before it is told, and told at least once. A receiver sees the same
  `id` again when an answer was lost.
- A post that fails is tried again after 10 s, 20 s, 40 s, ... up to an hour, and given up after
  `max_tries`; the alert itself stays in the list.
- Redirects are not followed: a webhook is where the settings say.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import aiohttp
import orjson
import structlog

from edge_runtime.errors import EdgeError, TransportError
from fleet.db.database import Database
from fleet.ingest import alert_store
from fleet.ingest.alert_store import Alert
from fleet.registry.facts import Limits

log = structlog.get_logger(__name__)

SIGNATURE_HEADER: Final = "x-edge-signature"


class Poster(Protocol):
    """Where alerts are told."""

    async def post(self, body: bytes, headers: dict[str, str]) -> None:
        """Raises `TransportError` unless the receiver took it."""


@dataclass
class MemoryPoster:
    """The in-memory twin; fails `failures` times first."""

    failures: int = 0
    posts: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)

    async def post(self, body: bytes, headers: dict[str, str]) -> None:
        """See `Poster`."""
        if self.failures:
            self.failures -= 1
            raise TransportError("the receiver answered 500")
        self.posts.append((body, headers))


@dataclass(frozen=True)
class HttpPoster:
    """Posts to one URL."""

    url: str
    timeout_s: float

    async def post(self, body: bytes, headers: dict[str, str]) -> None:
        """See `Poster`."""
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self.url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                if answer.status >= 300:
                    raise TransportError(f"the receiver answered {answer.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TransportError(f"the receiver cannot be reached: {error}") from error


@dataclass
class Alerts:
    """Rules are looked at every `every_s`. Without `poster`, alerts are only listed."""

    database: Database
    limits: Limits
    now: Callable[[], float]
    every_s: float
    poster: Poster | None = None
    secret: bytes | None = None
    max_tries: int = 8

    async def run(self) -> None:
        """Look and tell for ever; ends when cancelled."""
        while True:
            try:
                await self.look()
                await self.tell()
            except EdgeError as error:
                log.warning("alerts were not looked at", action="alerts.failed", error=str(error))
            await asyncio.sleep(self.every_s)

    async def look(self) -> None:
        """Look at all rules once."""
        tell = self.poster is not None
        now_s = self.now()
        steps = await self.database.write(
            lambda c: alert_store.look_at_all(c, now_s=now_s, limits=self.limits, tell=tell)
        )
        for rule, step in steps.items():
            log.info("alert rule", action=f"alert.{step}", rule=rule)

    async def tell(self) -> None:
        """Tell the webhook what it has to hear now."""
        if self.poster is None:
            return
        now_s = self.now()
        for alert in await self.database.read(lambda c: alert_store.waiting(c, now_s=now_s)):
            body = _body(alert)
            headers = {"content-type": "application/json"}
            if self.secret is not None:
                signature = hmac.new(self.secret, body, hashlib.sha256).hexdigest()
                headers[SIGNATURE_HEADER] = f"sha256={signature}"
            try:
                await self.poster.post(body, headers)
            except TransportError as error:
                await self._failed(alert, str(error))
            else:
                await self.database.write(
                    lambda c, one=alert: alert_store.delivered(c, one)  # type: ignore[misc]
                )

    async def _failed(self, alert: Alert, error: str) -> None:
        await self.database.write(
            lambda c: alert_store.not_delivered(
                c, alert, error, now_s=self.now(), max_tries=self.max_tries
            )
        )
        log.warning("webhook did not take an alert", action="alert.untold", alert=alert.id)


def _body(alert: Alert) -> bytes:
    state = "raised" if alert.cleared_s is None else "cleared"
    told = alert.model_dump(include={"id", "rule", "severity", "raised_s", "cleared_s", "values"})
    return orjson.dumps({"state": state, **told})
