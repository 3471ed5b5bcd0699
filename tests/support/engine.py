"""A decode worker around a fake decoder, on a clock that only steps move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models

from edge_runtime.core import FinishReason, GenerateRequest, SamplingParams, TokenEvent
from edge_runtime.engine.decode_worker import DecodeWorker, Event
from edge_runtime.engine.fake import FakeDecoder
from edge_runtime.engine.text import Codec, TextStream
from edge_runtime.metrics import NullObserver
from edge_runtime.scheduler.sequences import DecodeLimits

EOS = 31
"""End of sequence of the fake decoder's vocabulary of 32; 0 to 25 are letters."""


@dataclass
class Clock:
    """Seconds that pass only when told."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def load_codec(tokenizer: Tokenizer, directory: Path) -> Codec:
    """A codec over any tokenizer, by way of its file."""
    tokenizer.save(str(directory / "tokenizer.json"))
    manifest: Any = SimpleNamespace(
        tokenizer=SimpleNamespace(file="tokenizer.json"), chat_template=None
    )
    return Codec(directory, manifest)


def letter_tokenizer() -> Tokenizer:
    """Token n is the n-th letter; 26 to 30 are capitals, 31 is a special token."""
    vocab = {chr(ord("a") + at): at for at in range(26)}
    vocab |= {chr(ord("A") + at): 26 + at for at in range(5)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="a"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    return tokenizer


def greedy(max_tokens: int = 8, **changes: Any) -> SamplingParams:
    """Greedy parameters with changes."""
    return SamplingParams(**{"max_tokens": max_tokens, "temperature": 0.0, **changes})


def ask(
    name: str, prompt: Iterable[int], params: SamplingParams | None = None, **more: Any
) -> GenerateRequest:
    """A request for the fake model."""
    return GenerateRequest(name, "fake", tuple(prompt), params or greedy(), **more)


@dataclass
class Bench:
    """One worker, its fake decoder, its clock, and what it delivered."""

    codec: Codec
    slots: int = 2
    max_len: int = 64
    max_chunk: int = 16
    min_chunk: int = 4
    max_waiting: int = 1000
    max_wait_s: float = 1e6
    target_ms: float = 50.0
    step_cost_ms: Callable[[int], float] = lambda tokens: 10.0 + tokens
    events: list[Event] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.decoder = FakeDecoder(
            slots=self.slots, max_len=self.max_len, max_chunk=self.max_chunk, on_step=self._pass
        )
        self.worker = DecodeWorker(
            model="fake",
            decoder=self.decoder,
            limits=DecodeLimits(
                slots=self.slots,
                max_len=self.max_len,
                max_chunk_tokens=self.max_chunk,
                min_chunk_tokens=self.min_chunk,
                inter_token_target_ms=self.target_ms,
                max_waiting=self.max_waiting,
                max_wait_s=self.max_wait_s,
            ),
            eos_token_ids=frozenset({EOS}),
            make_text=lambda stop: TextStream(self.codec, stop),
            deliver=self.events.extend,
            observer=NullObserver(),
            clock=self.clock,
            draw_seed=lambda: 7,
        )

    def _pass(self, tokens: int) -> None:
        self.clock.now_s += self.step_cost_ms(tokens) / 1000.0

    def submit(self, name: str, prompt: Iterable[int], **params: Any) -> None:
        """Queue a greedy request that arrives now."""
        self.worker.submit(ask(name, prompt, greedy(**params), arrival_s=self.clock()))

    def turn(self) -> bool:
        """One step, with every invariant checked after it."""
        worked = self.worker.turn()
        self.worker.scheduler.check_integrity()
        return worked

    def drain(self, most: int = 10_000) -> int:
        """Step until idle; the steps it took. Fails when it takes more than `most`."""
        for count in range(most):
            if not self.turn():
                return count
        raise AssertionError(f"still busy after {most} steps")

    def of(self, name: str) -> list[TokenEvent]:
        """The events of one request."""
        return [event for request_id, event in self.events if request_id == name]

    def tokens(self, name: str) -> list[int]:
        """The tokens of one request."""
        return [event.token_id for event in self.of(name) if event.token_id is not None]

    def text(self, name: str) -> str:
        """The text of one request."""
        return "".join(event.text for event in self.of(name))

    def reason(self, name: str) -> FinishReason | None:
        """Why a request ended; None while it has not. Fails when it ended twice."""
        reasons = [e.finish_reason for e in self.of(name) if e.finish_reason is not None]
        assert len(reasons) <= 1, reasons
        assert not reasons or self.of(name)[-1].finish_reason is not None, "went on after its end"
        return reasons[0] if reasons else None


def alone(codec: Codec, request: GenerateRequest, **limits: Any) -> tuple[Sequence[int], str, Any]:
    """Tokens, text and reason of a request that has a worker for itself."""
    bench = Bench(codec, slots=1, **limits)
    bench.worker.submit(request)
    bench.drain()
    name = request.request_id
    return bench.tokens(name), bench.text(name), bench.reason(name)
