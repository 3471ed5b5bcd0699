"""What handlers work with. Made once, at the start."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from edge_runtime.errors import CapacityError
from fleet.boxline import LogBook, Order
from fleet.db.database import Database
from fleet.enrol.service import EnrolmentService
from fleet.ingest.stats import IngestStats
from fleet.publish.repository import Repository
from fleet.publish.uploads import Uploads
from fleet.registry.facts import Limits
from fleet.rollout.catalogue import Catalogue
from fleet.rollout.service import RolloutService
from fleet.settings import FleetSettings


@dataclass
class Bucket:
    """At most `rate` a second in the long run, `burst` at once."""

    rate: float
    burst: float
    _left: float = field(init=False)
    _at_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, now_s: float) -> None:
        """Take one. Raises `CapacityError` when none is left."""
        earned = max(0.0, now_s - self._at_s) * self.rate
        self._left, self._at_s = min(self.burst, self._left + earned), now_s
        if self._left < 1.0:
            raise CapacityError(
                "too many boxes ask at once; try again",
                retry_after_s=max(1.0, (1.0 - self._left) / self.rate),
                reason="too_many_requests",
            )
        self._left -= 1.0


class Orders(Protocol):
    """The way to a box that is connected: short-lived orders and retained documents."""

    logs: LogBook

    async def order(self, principal: str, order: Order) -> str:
        """Send a `do`; its id. Raises `TransportError`."""

    async def forget(self, principal: str) -> None:
        """Take back what is retained for a box. Raises `TransportError`."""


@dataclass
class Services:
    """The parts of the control host that the API shows."""

    settings: FleetSettings
    database: Database
    enrolment: EnrolmentService
    orders: Orders
    rollouts: RolloutService
    catalogue: Catalogue
    ingest: IngestStats = field(default_factory=IngestStats)
    now: Callable[[], float] = field(default=time.time)
    uploads: Uploads = field(init=False)
    _enrolments: Bucket = field(init=False)

    def __post_init__(self) -> None:
        publish = self.settings.publish
        repository = Repository(publish.repository)
        self.uploads = Uploads(repository, publish.max_blob_bytes, publish.min_free_bytes)
        rate = self.settings.api.enrol_per_s
        self._enrolments = Bucket(rate, burst=10 * rate)

    def admit_enrolment(self) -> None:
        """Count a request that anybody may make. Raises `CapacityError` when there are too many."""
        self._enrolments.take(self.now())

    @property
    def limits(self) -> Limits:
        """When a box is missed."""
        boxes = self.settings.boxes
        return Limits(boxes.silent_after_s, boxes.unreachable_after_s)
