"""Listen on a port with everything the control host serves over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from edge_runtime.errors import ConfigError
from fleet.api.app import make_app, tls_context
from fleet.api.services import Services
from fleet.blobs.api import blob_routes

_DRAIN_S: Final = 5.0


@contextlib.asynccontextmanager
async def listening(services: Services) -> AsyncIterator[str]:
    """Serve the API, blobs and trust metadata; yields the base URL.

    Raises `ConfigError` when the address cannot be had.
    """
    settings = services.settings.api
    app = make_app(services)
    app.add_routes(blob_routes(services.settings.publish.repository))
    runner = web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=_DRAIN_S, access_log=None
    )
    await runner.setup()
    try:
        context = tls_context(services)
        site = web.TCPSite(runner, settings.host, settings.port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"api.host {settings.host}, api.port {settings.port}: {error.strerror}; choose "
                "another port or stop what listens there"
            ) from error
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        scheme = "http" if context is None else "https"
        yield f"{scheme}://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
