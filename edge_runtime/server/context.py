"""What belongs to the app and what belongs to one request."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from edge_runtime.config import Settings
from edge_runtime.core import Kind, ModelHost, ModelInfo, RequestClass
from edge_runtime.errors import CapacityError, UsageError
from edge_runtime.metrics import Metrics

LOADING_RETRY_S = 5.0

_ROUTE_OF_KIND = {
    Kind.GENERATE: "/v1/chat/completions or /v1/completions",
    Kind.EMBED: "/v1/embeddings",
    Kind.CLASSIFY: "/v1/classify",
    Kind.RERANK: "no route yet",
}


@dataclass(slots=True)
class Services:
    """What every handler of one app shares. `clock` is the scheduler's, in seconds."""

    host: ModelHost
    settings: Settings
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    active_requests: int = 0
    draining: bool = False

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


SERVICES = web.AppKey("services", Services)


@dataclass(slots=True)
class RequestContext:
    """One HTTP request: who asked, when, how urgently; `model` once it is known to be ours."""

    request_id: str
    route: str
    arrival_s: float
    tenant: str = ""
    request_class: RequestClass = RequestClass.INTERACTIVE
    deadline_s: float | None = None
    info: ModelInfo | None = None
    cors_origin: str | None = None

    def answer_headers(self, *, answered: bool = True) -> dict[str, str]:
        """Headers that say who answered and why; a refusal was answered by no model."""
        headers = {"x-request-id": self.request_id}
        if answered and self.info is not None:
            headers["x-edge-answered-by"] = self.info.full_name
            headers["x-edge-tier"] = "local"
            headers["x-edge-reason"] = "requested-model"
        if self.cors_origin is not None:
            headers["Access-Control-Allow-Origin"] = self.cors_origin
            headers["Access-Control-Expose-Headers"] = "x-request-id, x-edge-answered-by"
            headers["Vary"] = "Origin"
        return headers


_CONTEXT = web.RequestKey("edge.context", RequestContext)


def services_of(request: web.Request) -> Services:
    """The app's services."""
    return request.app[SERVICES]


def set_context(request: web.Request, context: RequestContext) -> None:
    """Attach the context; the first middleware does it, once."""
    request[_CONTEXT] = context


def context_of(request: web.Request) -> RequestContext:
    """The request's context."""
    return request[_CONTEXT]


def new_id(prefix: str) -> str:
    """A fresh identifier, such as `chatcmpl-…`."""
    return f"{prefix}-{uuid.uuid4().hex}"
