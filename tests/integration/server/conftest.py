from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from edge_runtime.config import Settings
from edge_runtime.metrics import Metrics
from edge_runtime.server.app import create_app
from edge_runtime.server.fake_host import FakeHost
from edge_runtime.server.serve import listening


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate({"server": {"port": 0, "drain_timeout_s": 1.0}})


@pytest.fixture
async def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(
    host: FakeHost, settings: Settings, metrics: Metrics
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose base URL is a daemon on a free loopback port."""
    app = create_app(host, settings, metrics)
    async with listening(app, settings) as url, aiohttp.ClientSession(url) as session:
        yield session
