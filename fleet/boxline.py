"""What the control host tells boxes: wants, orders, and that nothing is wanted any more."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.agent.protocol import Channel, Do, LogChunk, PullLog, quality, topic
from edge_runtime.errors import UsageError
from fleet.db.database import Database
from fleet.link import Link
from fleet.registry.wants import unseen_wants

log = structlog.get_logger(__name__)

ORDER_LIVES_S: Final = 120
MAX_LOGS: Final = 64
MAX_LOG_CHUNKS: Final = 64

Order = Literal["report", "log", "rotate"]


class LogBook:
    """Logs that were asked for, in memory: the newest few, each up to a number of pieces."""

    def __init__(self) -> None:
        self._logs: OrderedDict[str, tuple[str, dict[int, LogChunk]]] = OrderedDict()

    def expect(self, order: str, principal: str) -> None:
        """Pieces for this order are taken from now on, from this box only."""
        self._logs[order] = (principal, {})
        while len(self._logs) > MAX_LOGS:
            self._logs.popitem(last=False)

    def add(self, principal: str, chunk: LogChunk) -> None:
        """Keep a piece; one that nobody asked for is left."""
        owner, parts = self._logs.get(chunk.order, ("", {}))
        if owner == principal and chunk.part < MAX_LOG_CHUNKS:
            parts[chunk.part] = chunk

    def read(self, order: str, principal: str) -> tuple[list[str], bool]:
        """The lines so far, and whether all are here. Raises `UsageError` for an unknown order."""
        owner, parts = self._logs.get(order, ("", {}))
        if owner != principal:
            raise UsageError("no such log was asked for", code="not_found", status=404)
        lines = [line for part in sorted(parts) for line in parts[part].lines]
        last = next((part for part, chunk in parts.items() if chunk.last), None)
        return lines, last is not None and len(parts) == last + 1


@dataclass
class BoxLine:
    """Speaks to boxes over a link; what it signs is signed by `keys`."""

    link: Link
    database: Database
    keys: Sequence[Ed25519PrivateKey]
    now: Callable[[], float]
    logs: LogBook = field(default_factory=LogBook)

    async def publish_want(self, box: str, document: bytes) -> None:
        """Hand a signed, retained document to the broker. Raises `TransportError`."""
        await self.link.publish(
            topic(box, Channel.WANT), document, qos=quality(Channel.WANT), retain=True
        )

    async def forget(self, principal: str) -> None:
        """Take the retained documents of a box back. Raises `TransportError`."""
        for channel in (Channel.WANT, Channel.LINK):
            await self.link.publish(topic(principal, channel), b"", qos=1, retain=True)

    async def order(self, principal: str, order: Order) -> str:
        """Send a short-lived order; its id. Raises `TransportError`, `UsageError` without keys."""
        if not self.keys:
            raise UsageError(
                "orders are signed and there is no key for it; see `publish.keys`",
                code="no_key",
                status=503,
            )
        now_s = int(self.now())
        made = Do(
            principal=principal,
            id=f"o-{secrets.token_hex(8)}",
            issued_s=now_s,
            expires_s=now_s + ORDER_LIVES_S,
            order=order,
            log=PullLog() if order == "log" else None,
        )
        if order == "log":
            self.logs.expect(made.id, principal)
        await self.link.publish(
            topic(principal, Channel.DO),
            made.sealed(self.keys),
            qos=quality(Channel.DO),
            expires_s=ORDER_LIVES_S,
        )
        return made.id

    async def say_again(self) -> int:
        """Publish what boxes have not said that they stored; how many. Raises `TransportError`.

        For every new connection: a broker may have lost its retained documents.
        """
        waiting = await self.database.read(lambda c: list(unseen_wants(c)))
        for principal, want in waiting:
            await self.publish_want(principal, want)
        if waiting:
            log.info("wants published again", action="wants.again", boxes=len(waiting))
        return len(waiting)
