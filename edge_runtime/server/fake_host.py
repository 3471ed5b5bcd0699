"""An in-memory `ModelHost` for tests: no model, no runtime, no clock.

Rules
- Deterministic: the generator answers with the last message (or the prompt) again, the embedder
  counts bytes, the classifier looks at the first letter.
- Tests steer it with events, not with time: `pause_after` stops every sequence after that many
  tokens until `resume` is set; `paused` says that one got there.

Example:
    host = FakeHost()
    host.pause_after = 2
    ...  # start a request, `await host.paused.wait()`, drop the connection
    await host.ended.wait()
    assert host.cancelled == 1
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

import numpy as np

from edge_runtime.core import (
    FinishReason,
    FloatArray,
    GenerateRequest,
    Kind,
    ModelInfo,
    OnSwap,
    RequestClass,
    TextCodec,
    TokenEvent,
    TokenLogprob,
)
from edge_runtime.errors import CapacityError, UsageError

BOS, EOS, CLS, SEP, TURN, END_TURN = range(256, 262)
VOCAB_SIZE = 262
EMBED_WIDTH = 8
LABELS = ("consonant", "vowel", "other")


class ByteCodec:
    """Bytes are tokens; 256 and up are special. `encoder`: [CLS] text [SEP], else [BOS] text."""

    def __init__(self, *, encoder: bool = False) -> None:
        self._encoder = encoder

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """See `TextCodec`."""
        tokens = list(text.encode())
        if not add_special_tokens:
            return tokens
        return [CLS, *tokens, SEP] if self._encoder else [BOS, *tokens]

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """See `TextCodec`; special tokens are written as `<256>`."""
        parts = []
        for token in tokens:
            if token < 256:
                parts.append(bytes([token]))
            elif not skip_special_tokens:
                parts.append(f"<{token}>".encode())
        return b"".join(parts).decode(errors="replace")

    def apply_chat_template(self, messages: Sequence[Mapping[str, object]]) -> list[int]:
        """`<turn>role: content<end>` for each message, then an open assistant's turn."""
        tokens = [BOS]
        for message in messages:
            tokens += [TURN, *f"{message['role']}: {message['content']}".encode(), END_TURN]
        return [*tokens, TURN]


def fake_models() -> list[ModelInfo]:
    """One model a kind: `echo`, `plain` (no chat template), `bytes-embed`, `letter-class`."""
    common = {"version": "1.0", "variant": "int8", "bundle_digest": "b" * 64, "created_s": 1}
    return [
        ModelInfo(
            name="echo",
            kind=Kind.GENERATE,
            model_digest="1" * 64,
            context_tokens=256,
            max_output_tokens=128,
            has_chat_template=True,
            vocab_size=VOCAB_SIZE,
            **common,  # type: ignore[arg-type]
        ),
        ModelInfo(
            name="plain",
            kind=Kind.GENERATE,
            model_digest="2" * 64,
            context_tokens=256,
            vocab_size=VOCAB_SIZE,
            **common,  # type: ignore[arg-type]
        ),
        ModelInfo(
            name="bytes-embed",
            kind=Kind.EMBED,
            model_digest="3" * 64,
            context_tokens=32,
            vocab_size=VOCAB_SIZE,
            output_width=EMBED_WIDTH,
            **common,  # type: ignore[arg-type]
        ),
        ModelInfo(
            name="letter-class",
            kind=Kind.CLASSIFY,
            model_digest="4" * 64,
            context_tokens=32,
            vocab_size=VOCAB_SIZE,
            labels=LABELS,
            **common,  # type: ignore[arg-type]
        ),
    ]


class FakeHost:
    """See the module. Counters and switches are plain attributes."""

    def __init__(self, models: Sequence[ModelInfo] | None = None) -> None:
        self._models = {info.name: info for info in models or fake_models()}
        self.not_ready_reason = ""
        self.refusal: CapacityError | UsageError | None = None
        self.fail_after: int | None = None
        self.crash_after: int | None = None
        self.pause_after: int | None = None
        self.paused = asyncio.Event()
        self.resume = asyncio.Event()
        self.ended = asyncio.Event()
        self.started = 0
        self.active = 0
        self.cancelled = 0
        self.requests: list[GenerateRequest] = []
        self.encoded: list[list[tuple[int, ...]]] = []
        self.encoded_for: list[str] = []
        self._listeners: list[OnSwap] = []

    @property
    def ready(self) -> bool:
        """See `ModelHost`; false while `not_ready_reason` is set."""
        return not self.not_ready_reason

    def models(self) -> Sequence[ModelInfo]:
        """See `ModelHost`."""
        return list(self._models.values())

    def info(self, model: str) -> ModelInfo:
        """See `ModelHost`."""
        try:
            return self._models[model]
        except KeyError as error:
            raise UsageError(
                f"no active model is called {model!r}; GET /v1/models lists them",
                param="model",
                code="model_not_found",
                status=404,
            ) from error

    def codec(self, model: str) -> TextCodec:
        """See `ModelHost`."""
        return ByteCodec(encoder=self.info(model).kind is not Kind.GENERATE)

    def on_swap(self, listener: OnSwap) -> None:
        """See `ModelHost`."""
        self._listeners.append(listener)

    def swap(self, info: ModelInfo) -> None:
        """Serve a name from another model from now on."""
        old = self._models.get(info.name)
        self._models[info.name] = info
        for listener in self._listeners:
            listener(old, info)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """See `ModelHost`."""
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)
        self.started += 1
        self.active += 1
        done = False
        try:
            for at, event in enumerate(answer_events(request)):
                await self._steer(at)
                if self.fail_after == at:
                    done = True
                    yield TokenEvent(None, "", finish_reason=FinishReason.ERROR, error="it broke")
                    return
                done = event.finish_reason is not None
                yield event
        finally:
            self.active -= 1
            self.cancelled += not done
            self.ended.set()

    async def _steer(self, at: int) -> None:
        if self.crash_after == at:
            raise RuntimeError("a bug")
        if self.pause_after == at:
            self.paused.set()
            await self.resume.wait()
        else:
            await asyncio.sleep(0)

    async def encode(
        self,
        model: str,
        inputs: Sequence[Sequence[int]],
        *,
        request_class: RequestClass = RequestClass.INTERACTIVE,
        bundle_digest: str = "",
    ) -> FloatArray:
        """See `ModelHost`; pauses like `generate` when `pause_after` is 0."""
        if self.refusal is not None:
            raise self.refusal
        self.encoded.append([tuple(tokens) for tokens in inputs])
        self.encoded_for.append(bundle_digest)
        self.active += 1
        with contextlib.ExitStack() as leaving:
            leaving.callback(self.ended.set)
            try:
                await self._steer(0)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.active -= 1
        outputs = _embed if self.info(model).kind is Kind.EMBED else _letter_logits
        return np.stack([outputs(tokens) for tokens in inputs])


def answer_events(request: GenerateRequest) -> list[TokenEvent]:
    """The whole answer: the last turn's content or the prompt again, token by token."""
    answer = _echo(request.prompt)
    params = request.params
    if params.ignore_eos:
        answer = (answer or [ord("x")]) * params.max_tokens
    tokens = [*answer, *([] if params.ignore_eos else [EOS])]
    text = bytes(answer).decode(errors="replace")
    cut = min((at for stop in params.stop if (at := text.find(stop)) >= 0), default=None)
    events: list[TokenEvent] = []
    pending, shown = b"", 0
    for at, token in enumerate(tokens):
        piece = ""
        if token != EOS:
            pending += bytes([token])
            with contextlib.suppress(UnicodeDecodeError):
                piece, pending = pending.decode(), b""
        reason = _reason(token, at, cut, shown + len(piece), params.max_tokens)
        if cut is not None:
            piece = piece[: max(0, cut - shown)]
        shown += len(piece)
        events.append(_event(token, piece, reason, request, first=not events))
        if reason is not None:
            break
    return events


def _reason(
    token: int, at: int, cut: int | None, shown: int, max_tokens: int
) -> FinishReason | None:
    if token == EOS or (cut is not None and shown > cut):
        return FinishReason.STOP
    return FinishReason.LENGTH if at + 1 == max_tokens else None


def _event(
    token: int,
    text: str,
    reason: FinishReason | None,
    request: GenerateRequest,
    *,
    first: bool,
) -> TokenEvent:
    wanted = request.params.top_logprobs
    others = [TokenLogprob((token + at) % VOCAB_SIZE, -0.5 - at) for at in range(wanted or 0)]
    return TokenEvent(
        token_id=token,
        text=text,
        logprob=None if wanted is None else -0.5,
        top_logprobs=tuple(others),
        finish_reason=reason,
        cached_prompt_tokens=1 if first else 0,
        queue_s=0.001 if first else 0.0,
    )


def _echo(prompt: Sequence[int]) -> list[int]:
    tokens = list(prompt)
    if TURN not in tokens:
        return [token for token in tokens if token < 256]
    turns = [at for at, token in enumerate(tokens) if token == TURN]
    turn = tokens[turns[-2] + 1 : turns[-1] - 1]
    return turn[turn.index(ord(":")) + 2 :]


def _embed(tokens: Sequence[int]) -> FloatArray:
    vector = np.zeros(EMBED_WIDTH, dtype=np.float32)
    for token in tokens:
        vector[token % EMBED_WIDTH] += 1
    return vector / np.float32(np.linalg.norm(vector))


def _letter_logits(tokens: Sequence[int]) -> FloatArray:
    letter = next((chr(token) for token in tokens if token < 256), "")
    best = 1 if letter in "aeiou" and letter else 0 if letter.isalpha() else 2
    return np.asarray([3.0 if at == best else float(-at) for at in range(3)], dtype=np.float32)
