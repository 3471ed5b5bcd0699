"""One frontier as the pool keeps it: settings, price, breaker, free places, learned rate."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from edge_runtime.errors import ConfigError
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.router.contract import FrontierCall
from edge_runtime.router.frontier import breaker
from edge_runtime.router.frontier.breaker import Breaker, BreakerRules, Mode, Refusal
from edge_runtime.router.frontier.meter import Meter, NullMeter
from edge_runtime.router.frontier.money import Facts
from edge_runtime.router.frontier.ordering import Choice
from edge_runtime.router.frontier.retry import RetryRules
from edge_runtime.router.frontier.settings import FrontierSettings
from edge_runtime.router.frontier.tokens import TokenRate, choices_of, prompt_bound, prompt_bytes
from edge_runtime.router.frontier.transport import Target, check_ca_file
from edge_runtime.router.frontier.trim import Trimmed, TrimRules, trim
from edge_runtime.router.frontier.verdict import BUSY, Health, Verdict

MAX_KEY_BYTES = 16 * 1024
_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")


class TryFailed(Exception):  # noqa: N818  # not an error of its own: a verdict on its way up
    """A try ended without an acceptable answer; `asked` when it had been sent."""

    def __init__(self, verdict: Verdict, *, asked: bool = True) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict
        self.asked = asked


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as it goes over the wire, and its worst case."""

    payload: bytes
    body: Mapping[str, Any]
    facts: Facts
    saved_tokens: int


@dataclass(slots=True)
class Lane:
    """See the module. Only the event loop's thread touches it."""

    name: str
    settings: FrontierSettings
    price: FrontierPrice
    target: Target
    meter: Meter = field(default_factory=NullMeter)
    state: Breaker = field(default_factory=Breaker)
    rate: TokenRate = field(default_factory=TokenRate)
    active: int = 0
    _places: asyncio.Semaphore = field(init=False)
    _rules: BreakerRules = field(init=False)
    _trim: TrimRules = field(init=False)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.settings.max_concurrent_calls)
        self._rules = BreakerRules(**self.settings.breaker.model_dump())
        self._trim = TrimRules(**self.settings.trim.model_dump())

    @property
    def choice(self) -> Choice:
        """What the order needs to know."""
        return Choice(self.name, self.price, self.settings.order)

    @property
    def retry_rules(self) -> RetryRules:
        """Bounds of its tries."""
        one = self.settings
        return RetryRules(one.max_tries, one.backoff_s, one.max_backoff_s)

    def look(self, now_s: float, *, alone: bool) -> Refusal | None:
        """See `breaker.look`."""
        return breaker.look(self.state, self._rules, now_s, alone=alone)

    def admit(self) -> bool:
        """A call goes now; true when it is the breaker's probe."""
        self.state, probe = breaker.admitted(self.state)
        return probe

    def ended(self, now_s: float, verdict: Verdict | None, *, probe: bool) -> None:
        """A call that was admitted ended; None is an answer that was taken."""
        health = Health.ALIVE if verdict is None else verdict.health
        wait_s = None if verdict is None else verdict.retry_after_s
        self.state = breaker.ended(
            self.state, self._rules, now_s, health, probe=probe, retry_after_s=wait_s
        )
        self.show(now_s)

    def show(self, now_s: float) -> Mode:
        """Publish the breaker's mode."""
        mode = breaker.mode(self.state, now_s)
        self.meter.gauge("edge_frontier_breaker_mode", self.name, value=float(mode))
        return mode

    def pausing(self, verdict: Verdict) -> Verdict:
        """The verdict with the pause that is really kept, where it asks for one."""
        if verdict.health is not Health.PAUSE:
            return verdict
        asked_s = verdict.retry_after_s
        wait_s = self._rules.default_pause_s if asked_s is None else asked_s
        return replace(verdict, retry_after_s=min(wait_s, self._rules.max_pause_s))

    @asynccontextmanager
    async def place(self, left_s: float | None) -> AsyncIterator[None]:
        """One of the calls that may be in progress; waits a while. Raises `TryFailed`."""
        wait_s = (
            self.settings.max_queue_s if left_s is None else min(self.settings.max_queue_s, left_s)
        )
        try:
            async with asyncio.timeout(max(0.0, wait_s) if self._places.locked() else None):
                await self._places.acquire()
        except TimeoutError as error:
            raise TryFailed(BUSY, asked=False) from error
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)
            self._places.release()

    def _count(self, change: int) -> None:
        self.active += change
        self.meter.gauge("edge_frontier_active_calls", self.name, value=float(self.active))

    def prepare(self, call: FrontierCall, *, stream: bool) -> Prepared:
        """Trim, name the model, cap the output, and know the worst case."""
        trimmed = (
            trim(call.body, self._trim) if self.settings.trim.active else Trimmed(call.body, 0)
        )
        limits = [call.body[one] for one in _LIMIT_FIELDS if isinstance(call.body.get(one), int)]
        body = {key: value for key, value in trimmed.body.items() if key not in _LIMIT_FIELDS}
        body["model"] = self.settings.model
        # Whatever was asked for, no answer is longer than what money is held for.
        limit = min([call.max_output_tokens, *limits])
        body[self.settings.output_limit_field] = limit
        if stream:
            body["stream"] = True
            options = call.body.get("stream_options")
            given = dict(options) if isinstance(options, Mapping) else {}
            body["stream_options"] = {**given, "include_usage": True}
        template = self.settings.template_tokens
        facts = Facts(
            prompt_bytes=prompt_bytes(body),
            # The caller's bound knows nothing of this frontier's template, or of what was trimmed.
            prompt_tokens=min(call.prompt_tokens + template, prompt_bound(body, template)),
            output_tokens=limit * choices_of(body),
        )
        saved = call.saved_tokens + self.rate.tokens(trimmed.saved_bytes)
        return Prepared(orjson.dumps(body), body, facts, saved)


def target_of(
    name: str, settings: FrontierSettings, environ: Mapping[str, str] = os.environ
) -> Target:
    """The address with its key. Raises `ConfigError` naming what is missing."""
    if settings.ca_file is not None:
        check_ca_file(str(settings.ca_file))
    return Target(
        url=f"{settings.base_url}/chat/completions",
        key=_key(name, settings, environ),
        connect_timeout_s=settings.connect_timeout_s,
        ca_file=None if settings.ca_file is None else str(settings.ca_file),
    )


def _key(name: str, settings: FrontierSettings, environ: Mapping[str, str]) -> str:
    if settings.api_key_env is not None:
        key, origin = environ.get(settings.api_key_env, ""), f"${settings.api_key_env}"
    elif settings.api_key_file is not None:
        origin = str(settings.api_key_file)
        try:
            with settings.api_key_file.open("rb") as file:
                key = file.read(MAX_KEY_BYTES).decode("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"frontiers.{name}: {origin} cannot be read: {error}") from error
    else:
        return ""
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"frontiers.{name}: {origin} holds no API key; put it there")
    return key
