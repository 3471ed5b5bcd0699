"""A stand-in for a frontier, which meters itself: OpenAI's chat route, faults on demand, a bill.

    python -m benchmarks.frontier_standin --table test.jsonl --port 8099 --wrong 0.03

It answers `POST /v1/chat/completions` from a table of utterances and answers. `GET /bill` is what
it charged, to the nano-unit (`?entries=1` with every request); `GET /v1/generation?id=` what one
call cost, by its id or the client's (`X-Client-Request-Id`); `POST /control` changes its behaviour
while it runs, such as `{"stall": 1.0}`. See `frontier_answers` for the rules.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.frontier_answers import (
    Answer,
    Behaviour,
    Meter,
    Oracle,
    fault_of,
    fingerprint,
    read_table,
    tokens_of,
)
from edge_runtime.ledger.prices import FrontierPrice, load_prices
from edge_runtime.ledger.rows import Tokens

MAX_BODY_BYTES = 16 * 1024 * 1024
KEPT_COUNTS = 1_000_000
EXAMPLE_PRICE = FrontierPrice(2_500_000, 250_000, 10_000_000)  # 2.50, 0.25, 10.00 a million


class StandIn:
    """The server. `behaviour` may be replaced at any time; `meter` is the bill.

    `busy` and `idle` are set while there are calls in progress, and while there are none;
    `peers` are the connections that calls came over.
    """

    def __init__(
        self,
        oracle: Oracle,
        behaviour: Behaviour | None = None,
        price: FrontierPrice = EXAMPLE_PRICE,
        *,
        api_key: str = "",
    ) -> None:
        self.oracle = oracle
        self.behaviour = behaviour or Behaviour()
        self.meter = Meter(price)
        self.kinds: Counter[str] = Counter()
        self.calls = 0
        self.active = 0
        self.most_active = 0
        self.peers: set[str] = set()
        self.busy, self.idle = asyncio.Event(), asyncio.Event()
        self.idle.set()
        self._api_key = api_key
        self._seen: Counter[str] = Counter()

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/generation", self._generation)
        app.router.add_get("/bill", self._bill)
        app.router.add_post("/control", self._control)
        return app

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Listen on loopback while in this context; gives the base URL with `/v1`."""
        # Handlers are cancelled when a client goes away: its tokens are billed up to there.
        runner = web.AppRunner(self.app(), handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        if request.transport is not None:
            self.peers.add(str(request.transport.get_extra_info("peername")))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        self.busy.set()
        self.idle.clear()
        try:
            return await self._answer(request)
        finally:
            self.active -= 1
            if not self.active:
                self.idle.set()
                self.busy.clear()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self._api_key and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return _error(401, "wrong API key", "invalid_api_key")
        body = await request.json()
        if not isinstance(body, dict) or not body.get("messages") or not body.get("model"):
            return _error(400, "messages and model are required", "invalid_request_error")
        key = fingerprint(body)
        nth = self._seen[key]
        if nth or len(self._seen) < KEPT_COUNTS:
            self._seen[key] += 1
        now = self.behaviour
        fault = fault_of(body, nth, now)
        self.kinds[fault or "served"] += 1
        if fault == "out_of_credit" or 0 <= now.credit_nano <= self.meter.nano:
            return _error(402, "you are out of credit", "insufficient_quota")
        if fault == "rate_limit":
            headers = {"Retry-After": f"{now.retry_after_s:g}"}
            return _error(429, "slow down", "rate_limit_exceeded", headers)
        if fault == "server_error":
            return _error(503, "the model is overloaded", "server_error")
        answer = self.oracle.answer(body, now)
        self.kinds[answer.kind] += 1
        made = _Made(self.meter.prompt(body), answer, _limit(body), f"chatcmpl-{key[:20]}-{nth}")
        try:
            if fault == "stall":
                await asyncio.sleep(now.stall_s)
            await asyncio.sleep(now.first_token_s)
            if body.get("stream"):
                return await self._stream(request, body, made, cut=fault == "cut")
            return await self._whole(request, body, made, fault)
        finally:
            client_call = request.headers.get("X-Client-Request-Id", "")
            self.meter.book(
                made.tokens, kind=answer.kind, status=200, call=made.call, client_call=client_call
            )

    async def _whole(
        self, request: web.Request, body: dict[str, Any], made: _Made, fault: str | None
    ) -> web.StreamResponse:
        await asyncio.sleep(self.behaviour.token_s * len(made.pieces))
        made.given = len(made.pieces)
        message = {"role": "assistant", "content": made.text}
        choice = {"index": 0, "message": message, "finish_reason": made.finish_reason}
        whole = {**made.head(body), "choices": [choice], "usage": made.usage}
        if fault == "malformed":
            return web.Response(text="<html>200 OK</html>", content_type="text/html")
        if fault == "cut":
            data = json.dumps(whole).encode()
            response = web.StreamResponse(headers={"Content-Length": str(len(data))})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            return _hang_up(request, response)
        return web.json_response(whole)

    async def _stream(
        self, request: web.Request, body: dict[str, Any], made: _Made, *, cut: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head = made.head(body, chunk=True)

        async def send(delta: dict[str, Any], finish_reason: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            await response.write(_event({**head, "choices": [choice]}))

        await send({"role": "assistant", "content": ""})
        for number, piece in enumerate(made.pieces):
            if cut and number == len(made.pieces) // 2:
                return _hang_up(request, response)
            await asyncio.sleep(self.behaviour.token_s)
            made.given += 1
            await send({"content": piece})
        await send({}, made.finish_reason)
        options = body.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            await response.write(_event({**head, "choices": [], "usage": made.usage}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _generation(self, request: web.Request) -> web.Response:
        found = self.meter.told(request.query.get("id", ""))
        if found is None:
            return _error(404, "no such generation, or it is not done", "not_found")
        return web.json_response({"data": found})

    async def _bill(self, request: web.Request) -> web.Response:
        report = self.meter.report(entries=request.query.get("entries") == "1")
        return web.json_response(report | {"calls": self.calls, "kinds": dict(self.kinds)})

    async def _control(self, request: web.Request) -> web.Response:
        try:
            self.behaviour = self.behaviour.changed(await request.json())
        except (ValueError, TypeError) as error:
            return _error(400, str(error), "invalid_request_error")
        return web.json_response(asdict(self.behaviour))


class _Made:
    """An answer while it is given out; `tokens` is what it costs so far."""

    def __init__(self, prompt: Tokens, answer: Answer, limit: int, call: str) -> None:
        self.call = call
        pieces = tokens_of(answer.text)
        self.pieces = pieces[:limit]
        self.text = "".join(self.pieces)
        self.finish_reason = "stop" if len(pieces) <= limit else "length"
        self.given = 0
        self._prompt = prompt

    @property
    def tokens(self) -> Tokens:
        return Tokens(self._prompt.tokens_in, self._prompt.tokens_cached, self.given)

    def head(self, body: dict[str, Any], *, chunk: bool = False) -> dict[str, Any]:
        return {
            "id": self.call,
            "object": "chat.completion.chunk" if chunk else "chat.completion",
            "created": 0,
            "model": body["model"],
        }

    @property
    def usage(self) -> dict[str, Any]:
        found = self.tokens
        return {
            "prompt_tokens": found.tokens_in,
            "completion_tokens": found.tokens_out,
            "total_tokens": found.tokens_in + found.tokens_out,
            "prompt_tokens_details": {"cached_tokens": found.tokens_cached},
        }


def _limit(body: dict[str, Any]) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        if isinstance(body.get(name), int):
            return max(1, body[name])
    return 1 << 16


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _hang_up(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()  # after what was written; not an abort
    return response


def _error(
    status: int, message: str, code: str, headers: dict[str, str] | None = None
) -> web.Response:
    body = {"error": {"message": message, "type": code, "code": code}}
    return web.json_response(body, status=status, headers=headers)


async def run(stand_in: StandIn, port: int) -> None:
    async with stand_in.serving(port) as url:
        print(f"{url}  bill: {url.removesuffix('/v1')}/bill", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A frontier stand-in that meters itself.")
    parser.add_argument("--table", type=Path, action="append", required=True)
    parser.add_argument("--text-field", default="text")
    parser.add_argument("--answer-field", default="intent")
    parser.add_argument("--user-template", default="{input}")
    parser.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="such as oos=none"
    )
    parser.add_argument("--unknown", default="none", help="answer to what is in no table")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--prices", type=Path, help="price list; with --price-key")
    parser.add_argument("--price-key", default="")
    for one in fields(Behaviour):
        kind = type(one.default)
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=kind, default=one.default)
    args = parser.parse_args()
    table: dict[str, str] = {}
    for path in args.table:
        lines = path.read_text(encoding="utf-8").splitlines()
        table |= read_table(lines, text_field=args.text_field, answer_field=args.answer_field)
    renamed = dict(one.split("=", 1) for one in args.rename)
    table = {text: renamed.get(answer, answer) for text, answer in table.items()}
    oracle = Oracle(table, user_template=args.user_template, unknown=args.unknown)
    behaviour = Behaviour(**{one.name: getattr(args, one.name) for one in fields(Behaviour)})
    price = load_prices(args.prices).of(args.price_key) if args.prices else EXAMPLE_PRICE
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(StandIn(oracle, behaviour, price), args.port))


if __name__ == "__main__":
    main()
