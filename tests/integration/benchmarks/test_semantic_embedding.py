"""The benchmark of the embedding talks to a server as to the daemon, idle and beside streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.http_client import RequestError
from benchmarks.semantic_embedding import read_questions, rounds


async def _embed(request: web.Request) -> web.Response:
    assert (await request.json())["input"] in ("what is my balance", "how do i pay")
    return web.json_response({"data": [{"embedding": [1.0]}]})


async def _complete(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(body["max_tokens"]):
        await response.write(b'data: {"choices": []}\n\n')
    return response


def _server(*, broken: bool = False) -> TestServer:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": request.path}, status=404)

    app = web.Application()
    app.router.add_post("/v1/embeddings", _embed)
    app.router.add_post("/v1/completions", refuse if broken else _complete)
    return TestServer(app)


def test_questions_are_read_from_lines_and_json_and_again_if_few(tmp_path: Path) -> None:
    path = tmp_path / "questions"
    path.write_text('what is my balance\n\n{"text": "how do i pay"}\n')
    found = read_questions(path, 5)
    assert len(found) == 5
    assert set(found) == {"what is my balance", "how do i pay"}


async def test_it_times_questions_idle_and_beside_streams() -> None:
    async with _server() as server:
        url = str(server.make_url("/"))
        questions = ["what is my balance", "how do i pay"] * 10
        found = cast("dict[str, Any]", await rounds(url, "e", "d", questions, streams=2))
    assert found["questions"] == 20
    assert found["idle_ms"]["p50"] > 0
    assert found["beside_decoding_ms"]["p50"] > 0
    assert found["pieces_per_s"] > 0


async def test_a_decoder_that_refuses_ends_it() -> None:
    async with _server(broken=True) as server:
        with pytest.raises(RequestError, match="404"):
            await rounds(str(server.make_url("/")), "e", "d", ["how do i pay"], streams=1)
