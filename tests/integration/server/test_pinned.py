"""Every route sends along which model it tokenised for, so that a swap cannot mix two."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from edge_runtime.server.fake_host import FakeHost


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "bytes-embed", "input": "hello"}),
        ("/v1/classify", {"model": "letter-class", "input": "hello"}),
    ],
)
async def test_encoders_are_asked_for_the_model_that_was_looked_up(
    client: aiohttp.ClientSession, host: FakeHost, path: str, body: dict[str, Any]
) -> None:
    async with client.post(path, json=body) as response:
        assert response.status == 200, await response.text()
    assert host.encoded_for == [host.info(body["model"]).bundle_digest]


@pytest.mark.parametrize("stream", [False, True])
async def test_generators_too(
    client: aiohttp.ClientSession, host: FakeHost, *, stream: bool
) -> None:
    model = next(info for info in host.models() if info.kind == "generate")
    body = {"model": model.name, "prompt": "hello", "stream": stream}
    async with client.post("/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        await response.text()
    assert [one.bundle_digest for one in host.requests] == [model.bundle_digest]
