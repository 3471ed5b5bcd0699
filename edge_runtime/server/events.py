"""Many sequences' events as one stream, and the figures that come with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from edge_runtime.core import FinishReason, TokenEvent
from edge_runtime.errors import CapacityError, EngineError
from edge_runtime.ledger.rows import Tokens
from edge_runtime.router.till import Work

Tagged = tuple[int, TokenEvent]


async def merge(
    streams: Sequence[AsyncGenerator[TokenEvent, None]],
) -> AsyncGenerator[Tagged, None]:
    """Events of all streams as they come, with the stream's index.

    Closing the result closes every stream; the first error of any ends all and is raised.
    """
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as only:
            async for event in only:
                yield 0, event
        return
    # no bound on purpose: a sequence has at most max_tokens events, and a reader that is slow
    # must not make the engine wait
    queue: asyncio.Queue[Tagged | asyncio.Task[None]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[TokenEvent, None]) -> None:
        async with contextlib.aclosing(stream):
            async for event in stream:
                queue.put_nowait((index, event))

    tasks = [
        asyncio.create_task(pump(index, stream), name=f"sequence-{index}")
        for index, stream in enumerate(streams)
    ]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    try:
        ended = 0
        while ended < len(tasks):
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                item.result()
                ended += 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check(event: TokenEvent) -> None:
    """Raise what an event that ends a sequence badly stands for."""
    if event.finish_reason is FinishReason.ERROR:
        raise EngineError(event.error or "the model run failed; try again")
    if event.finish_reason is FinishReason.CANCELLED:
        raise CapacityError(
            event.error or "the sequence was cancelled: the daemon is stopping",
            retry_after_s=1.0,
            status=503,
        )


@dataclass(slots=True)
class Figures:
    """Counts and times of one request; all times in seconds on one clock."""

    arrival_s: float
    prompt_lens: Sequence[int]
    choices: int
    completion_tokens: int = 0
    first_s: float | None = None
    last_s: float | None = None
    queue_s: float = 0.0
    busy_s: float = 0.0
    cached: dict[int, int] = field(default_factory=dict)

    def note(self, index: int, event: TokenEvent, now_s: float) -> None:
        """Book one event of sequence `index`."""
        if index not in self.cached:
            self.cached[index] = event.cached_prompt_tokens
        self.busy_s += event.busy_s
        if event.token_id is None:
            return
        self.completion_tokens += 1
        self.last_s = now_s
        if self.first_s is None:
            self.first_s, self.queue_s = now_s, event.queue_s

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens reused, each prompt counted once, as its tokens are."""
        return sum(self.cached.get(at * self.choices, 0) for at in range(len(self.prompt_lens)))

    def work(self, now_s: float) -> Work:
        """What the ledger keeps of it; nothing that was never begun costs anything."""
        tokens = Tokens(sum(self.prompt_lens), self.cached_tokens, self.completion_tokens)
        duration_us = max(0, round((now_s - self.arrival_s) * 1e6))
        return Work(tokens, round(self.busy_s * 1e6), duration_us)

    @property
    def begun(self) -> bool:
        """Whether any sequence gave an event."""
        return bool(self.cached)

    def usage(self) -> dict[str, object]:
        """OpenAI's `usage`."""
        prompt = sum(self.prompt_lens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def timings(self) -> dict[str, object]:
        """Times for the `edge` field. `prefill_ms` is what passed between slot and first token."""
        if self.first_s is None or self.last_s is None:
            return {"queue_ms": None, "prefill_ms": None, "decode_tokens_per_s": None}
        decode_s = self.last_s - self.first_s
        later = self.completion_tokens - 1
        prefill_s = max(0.0, self.first_s - self.arrival_s - self.queue_s)
        return {
            "queue_ms": round(self.queue_s * 1000, 2),
            "prefill_ms": round(prefill_s * 1000, 2),
            "decode_tokens_per_s": round(later / decode_s, 2) if decode_s > 0 else None,
            "total_ms": round((self.last_s - self.arrival_s) * 1000, 2),
            "cached_tokens": self.cached_tokens,
            "first_token_ms": round((self.first_s - self.arrival_s) * 1000, 2),
        }
