"""GET /v1/models, /v1/models/{model}, /health and /metrics."""

from __future__ import annotations

from aiohttp import web

from edge_runtime import __version__
from edge_runtime.core import ModelInfo
from edge_runtime.errors import CapacityError
from edge_runtime.metrics import CONTENT_TYPE
from edge_runtime.server.context import LOADING_RETRY_S, services_of
from edge_runtime.server.replies import json_reply


def model_card(info: ModelInfo) -> dict[str, object]:
    """One model as `/v1/models` shows it; past OpenAI's four fields come ours."""
    return {
        "id": info.name,
        "object": "model",
        "created": info.created_s,
        "owned_by": "edge-runtime",
        "max_model_len": info.context_tokens,
        "max_output_tokens": info.max_output_tokens,
        "kind": str(info.kind),
        "version": info.version,
        "variant": info.variant,
        "labels": len(info.labels),
        "bundle_digest": info.bundle_digest,
        "model_digest": info.model_digest,
    }


async def list_models(request: web.Request) -> web.StreamResponse:
    """Every active model."""
    cards = [model_card(info) for info in services_of(request).host.models()]
    return json_reply({"object": "list", "data": cards})


async def get_model(request: web.Request) -> web.StreamResponse:
    """One model."""
    return json_reply(model_card(services_of(request).find(request.match_info["model"])))


async def get_health(request: web.Request) -> web.StreamResponse:
    """200 when every model can answer; 503 and why not otherwise."""
    services = services_of(request)
    if services.traffic.draining:
        raise CapacityError("the daemon is stopping", retry_after_s=LOADING_RETRY_S, status=503)
    if not services.host.ready:
        reason = services.host.not_ready_reason
        raise CapacityError(reason, retry_after_s=LOADING_RETRY_S, status=503)
    names = [info.full_name for info in services.host.models()]
    return json_reply({"status": "ok", "version": __version__, "models": names})


async def get_metrics(request: web.Request) -> web.StreamResponse:
    """Prometheus text."""
    services = services_of(request)
    services.metrics.set_models(services.host.models())
    return web.Response(body=services.metrics.render(), headers={"Content-Type": CONTENT_TYPE})
