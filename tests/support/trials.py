"""Two bundles on one fake host, and the watch that tries them: what tests of trials share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edge_runtime.core import FloatArray, GenerateRequest, RequestClass, TokenEvent
from edge_runtime.errors import EngineError
from edge_runtime.metrics import Metrics
from edge_runtime.router.frontier.memory import MemoryFrontiers
from edge_runtime.router.watch.meter import MeteredListener
from edge_runtime.router.watch.settings import AuditSettings, WatchSettings
from edge_runtime.router.watch.state import MemoryWatchStore
from edge_runtime.router.watch.surroundings import Surroundings
from edge_runtime.router.watch.watch import Watch
from edge_runtime.server.fake_host import FakeHost
from tests.support.routed import models

NEXT = {"letter-class": ("letter-next", "5" * 64), "echo": ("echo-next", "6" * 64)}


class TwoBundles(FakeHost):
    """A host that has a candidate beside each model of `NEXT`.

    `bad` candidates answer wrongly and surely, `broken` ones fail; any other answers alike.
    """

    def __init__(self, *, bad: bool = False, broken: bool = False) -> None:
        known = models()
        second = [
            replace(info, name=NEXT[info.name][0], model_digest=NEXT[info.name][1])
            for info in known
            if info.name in NEXT
        ]
        super().__init__([*known, *second])
        self.bad, self.broken = bad, broken
        self.asked: list[tuple[str, RequestClass]] = []

    def asked_next(self) -> list[RequestClass]:
        """How candidates were asked."""
        return [how for name, how in self.asked if name.endswith("-next")]

    async def encode(
        self,
        model: str,
        inputs: Sequence[Sequence[int]],
        *,
        request_class: RequestClass = RequestClass.INTERACTIVE,
        bundle_digest: str = "",
    ) -> FloatArray:
        """See `FakeHost`."""
        self.asked.append((model, request_class))
        candidate = model.endswith("-next")
        if candidate and self.broken:
            raise EngineError("the candidate's run failed")
        logits = await super().encode(
            model, inputs, request_class=request_class, bundle_digest=bundle_digest
        )
        # another label comes first, as surely
        return np.roll(logits, 1, axis=1) if candidate and self.bad else logits

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """See `FakeHost`."""
        self.asked.append((request.model, request.request_class))
        candidate = request.model.endswith("-next")
        if candidate and self.broken:
            raise EngineError("the candidate's run failed")
        async for one in super().generate(request):
            garbled = candidate and self.bad and one.text
            yield replace(one, text="?") if garbled else one


@dataclass
class Trying:
    """A watch that tries `NEXT`, with chance taken out: `draws` are given in turn, for ever."""

    answer: Callable[[Any], Any]
    model: str = "letter-class"
    mode: str = "shadow"
    draws: Sequence[float] = (0.0,)
    store: MemoryWatchStore = field(default_factory=MemoryWatchStore)
    metrics: Metrics = field(default_factory=Metrics)
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.frontiers = MemoryFrontiers(self.answer, names=("big",))
        self.drawn = 0
        candidate, digest = NEXT[self.model]
        digests = {info.name: info.model_digest for info in models()} | {candidate: digest}
        table = {"candidate": candidate, "mode": self.mode, "share": 1.0, **self.changes}
        self.watch = Watch(
            WatchSettings(audit=AuditSettings(share=0.0), trial={self.model: table}),
            self.frontiers,
            self.store,
            Surroundings(
                digest_of=digests.get,
                listener=MeteredListener(self.metrics),
                clock=lambda: 7,
                draw=self._draw,
            ),
        )

    def _draw(self) -> float:
        self.drawn += 1
        return self.draws[(self.drawn - 1) % len(self.draws)]

    async def until(self, ready: Callable[[], bool]) -> None:
        """Let the background run until something is so; a bound instead of a wait."""
        for _ in range(10_000):
            if ready():
                return
            await asyncio.sleep(0)
        raise AssertionError("it never came")

    @property
    def judged(self) -> int:
        """Pairs the frontier was asked about."""
        return len(self.frontiers.transport.requests)

    @property
    def outcome(self) -> str:
        """What the trial says."""
        return str(self.watch.trials()[0].outcome)
