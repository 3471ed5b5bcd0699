"""What belongs to the app and what belongs to one request."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aiohttp import web

from edge_runtime.config import Settings
from edge_runtime.core import Kind, ModelHost, ModelInfo, RequestClass
from edge_runtime.errors import CapacityError, UsageError
from edge_runtime.metrics import Metrics
from edge_runtime.router.contract import Payer, Reason
from edge_runtime.router.plan import Plan, Wishes
from edge_runtime.router.router import DEFAULT_TENANT, Router
from edge_runtime.router.told import Told, summed, summed_headers
from edge_runtime.server.own_time import OwnTime
from edge_runtime.server.recent import Recent

LOADING_RETRY_S = 5.0

EXPOSED = (
    "x-request-id, x-edge-answered-by, x-edge-tier, x-edge-reason, x-edge-certificate, "
    "x-edge-cache, x-edge-cache-key, x-edge-degraded"
)

_ROUTE_OF_KIND = {
    Kind.GENERATE: "/v1/chat/completions or /v1/completions",
    Kind.EMBED: "/v1/embeddings",
    Kind.CLASSIFY: "/v1/classify",
    Kind.RERANK: "no route yet",
}


@dataclass(slots=True)
class Traffic:
    """How much runs, and whether more may come."""

    active_requests: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers share. `clock` is the scheduler's, in seconds.

    A request keeps the `Services` it came under, so all of it sees one router. `settings` are
    those of the start: what of them may change while requests run, the router holds.
    """

    host: ModelHost
    settings: Settings
    metrics: Metrics
    router: Router
    clock: Callable[[], float] = time.monotonic
    recent: Recent = field(default_factory=Recent)
    started_s: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)

    def model(self, name: str, kind: Kind) -> ModelInfo:
        """The named model, which must be of that kind.

        Raises `UsageError` (unknown, or another kind) or `CapacityError` (still loading).
        """
        info = self.find(name)
        if info.kind is not kind:
            raise UsageError(
                f"{name} is a model of kind {info.kind}: use {_ROUTE_OF_KIND[info.kind]}",
                param="model",
                code="wrong_model_kind",
            )
        return info

    def find(self, name: str) -> ModelInfo:
        """The named model of any kind; while models load, absence means "not yet"."""
        try:
            return self.host.info(name)
        except UsageError as error:
            if not self.host.ready:
                raise CapacityError(
                    self.host.not_ready_reason, retry_after_s=LOADING_RETRY_S, status=503
                ) from error
            raise

    def serves(self, name: str) -> bool:
        """Whether a model of that name is active."""
        try:
            self.host.info(name)
        except (UsageError, CapacityError):
            return False
        return True

    def plan(self, asked: str, wishes: Wishes) -> Plan:
        """Who may answer a request for `asked`. Raises like `find` for a name that is none."""
        plan = self.router.plan(asked, wishes, served=self.serves(asked))
        if plan is None:
            self.find(asked)
            raise UsageError(f"{asked!r} became active just now; ask again", param="model")
        return plan

    def bound_sequences(self, wanted: int) -> None:
        """Raise `UsageError` when one request asks for more sequences than it may."""
        limit = self.settings.server.max_sequences_per_request
        if wanted > limit:
            raise UsageError(
                f"{wanted} answers were asked for (prompts times n); one request may ask for "
                f"{limit}",
                param="n",
            )

    @staticmethod
    def now_s() -> int:
        """Wall clock, for `created`."""
        return int(time.time())


@dataclass(slots=True)
class Current:
    """The services that requests come under from now on."""

    services: Services

    def route_by(self, router: Router) -> None:
        """Let requests that come from now on be routed by `router`."""
        self.services = replace(self.services, router=router)


CURRENT = web.AppKey("current", Current)


@dataclass(slots=True)
class RequestContext:
    """One HTTP request: who asked, when, how urgently; `info` once a local model is known.

    `told` holds the account of each of its questions; `keeps_answers` says that a cache may take
    the answer, so that a stream's chunks are worth remembering.
    """

    request_id: str
    route: str
    arrival_s: float
    tenant: str = ""
    request_class: RequestClass = RequestClass.INTERACTIVE
    deadline_s: float | None = None
    wishes: Wishes = field(default_factory=Wishes)
    info: ModelInfo | None = None
    cors_origin: str | None = None
    told: list[Told] = field(default_factory=list)
    keeps_answers: bool = False

    def own_time(self, services: Services) -> OwnTime:
        """The stopwatch of the router's own time, running since the request came."""
        return OwnTime(services.clock, self.arrival_s)

    def late(self, now_s: float) -> bool:
        """Whether the caller's deadline has passed."""
        return self.deadline_s is not None and now_s >= self.deadline_s

    def payer(self, plan: Plan | None = None, part: int | None = None) -> Payer:
        """Whose row it is; `part` numbers the questions of a request that has several."""
        wishes = self.wishes
        return Payer(
            request_id=self.request_id if part is None else f"{self.request_id}#{part}",
            task_id=wishes.task_id or self.request_id,
            tenant=self.tenant or DEFAULT_TENANT,
            endpoint=wishes.endpoint if plan is None else plan.endpoint,
            tag=wishes.tag,
        )

    def simply(self, router: Router, info: ModelInfo, plan: Plan | None = None) -> Told:
        """The account of a request that one local model answers, whatever comes of it."""
        told = router.told(self.payer(plan))
        reason = Reason.REQUESTED_MODEL if plan is None else plan.rules.kept_reason
        told.answered(tier="local", reason=str(reason), by=info.full_name)
        self.told = [told]
        return told

    def answer_headers(self, *, answered: bool = True) -> dict[str, str]:
        """Headers that say who answered and why; a refusal was answered by no model."""
        headers = {"x-request-id": self.request_id}
        if self.told:
            ones = self.told
            headers |= summed_headers(ones) if answered else ones[0].headers(answered=False)
        if self.cors_origin is not None:
            headers["Access-Control-Allow-Origin"] = self.cors_origin
            headers["Access-Control-Expose-Headers"] = EXPOSED
            headers["Vary"] = "Origin"
        return headers

    def edge(self, timings: dict[str, object]) -> dict[str, object]:
        """The body's `edge` field: who answered, why, what it cost, how long each part took."""
        return summed(self.told, timings)


_CONTEXT = web.RequestKey("edge.context", RequestContext)


_SERVICES = web.RequestKey("edge.services", Services)


def services_of(request: web.Request) -> Services:
    """The services the request came under."""
    if _SERVICES not in request:
        request[_SERVICES] = request.app[CURRENT].services
    return request[_SERVICES]


def set_context(request: web.Request, context: RequestContext) -> None:
    """Attach the context; the first middleware does it, once."""
    request[_CONTEXT] = context


def context_of(request: web.Request) -> RequestContext:
    """The request's context."""
    return request[_CONTEXT]


def new_id(prefix: str) -> str:
    """A fresh identifier, such as `chatcmpl-…`."""
    return f"{prefix}-{uuid.uuid4().hex}"
