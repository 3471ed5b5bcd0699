"""A generating bundle's answers with the probability of each token, decoded greedily.

Rules
- The score reads the log probabilities of the answer's tokens, from the raw logits and without the
  end token: what the daemon reports as `logprobs` for the same request at temperature 0.
- An answer is right when its JSON equals the expected one; text that is no JSON, or that reached
  the limit on tokens, is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.digests import model_digest
from edge_runtime.bundle.manifest import DecoderGraph, Manifest
from edge_runtime.core import FloatArray, StepPlan, StepRow
from edge_runtime.engine.offline import Codec, DecoderSession, open_decoder
from edge_runtime.errors import UsageError
from export_tools.certify.classifier import graph_of

SLOTS = 8
CHUNK = 512
MAX_NEW_TOKENS = 256


@dataclass(slots=True)
class Answer:
    """What a model wrote: tokens, the log probability of each, and whether it came to an end."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False


@dataclass(frozen=True, slots=True)
class GeneratorBundle:
    """One variant of a verified bundle, ready to answer single user messages."""

    manifest: Manifest
    model_digest: str
    session: DecoderSession
    codec: Codec
    max_new: int

    @classmethod
    def open(
        cls,
        directory: Path,
        manifest: Manifest,
        variant: str,
        *,
        threads: int | None = None,
        native: bool = False,
    ) -> GeneratorBundle:
        """Load the graph of a verified bundle. Raises `BundleError`, or `UsageError` for a bundle
        without a chat template. For `native` see `graph_of`.
        """
        chosen = manifest.variant(variant)
        assert isinstance(chosen.contract, DecoderGraph)
        codec = Codec(directory, manifest)
        if not codec.has_chat_template:
            raise UsageError(f"{manifest.name} has no chat template: there is no way to ask it")
        graph, native = graph_of(chosen, native=native)
        session = open_decoder(
            directory / graph,
            chosen.contract,
            slots=SLOTS,
            max_len=manifest.context,
            max_chunk=min(CHUNK, manifest.context),
            threads=threads,
            native=native,
        )
        limit = min(manifest.sampling.max_output_tokens or MAX_NEW_TOKENS, manifest.context // 2)
        return cls(manifest, model_digest(manifest, variant), session, codec, limit)

    def prompt(self, text: str) -> list[int]:
        """Tokens of one user message."""
        return self.codec.apply_chat_template([{"role": "user", "content": text}])

    def fits(self, text: str) -> bool:
        """Whether prompt and answer have room; what has none escalates unseen."""
        return len(self.prompt(text)) + self.max_new <= self.session.max_len

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        """Greedy answers, in the order of `texts`, all of which fit."""
        prompts = [self.prompt(text) for text in texts]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        found = [Answer() for _ in prompts]
        for start in range(0, len(order), SLOTS):
            group = order[start : start + SLOTS]
            self._group([prompts[index] for index in group], [found[index] for index in group])
        return found

    def text(self, answer: Answer) -> str:
        """The answer as a client would read it."""
        return self.codec.decode(answer.tokens)

    def _group(self, prompts: Sequence[list[int]], answers: Sequence[Answer]) -> None:
        """Answer at most SLOTS prompts beside each other, one a slot."""
        chunk = self.session.max_chunk
        pending: dict[int, tuple[list[int], int]] = {}
        for slot, prompt in enumerate(prompts):
            last = (len(prompt) - 1) // chunk * chunk
            for start in range(0, last, chunk):
                part = tuple(prompt[start : start + chunk])
                self.session.step(StepPlan((StepRow(slot, part, start, False),)))
            pending[slot] = (prompt[last:], last)
        while pending:
            rows = [StepRow(slot, tuple(new), at, True) for slot, (new, at) in pending.items()]
            logits = self.session.step(StepPlan(tuple(rows)))
            for row, values in zip(rows, logits, strict=True):
                token, logprob = _best(values)
                answer = answers[row.slot]
                answer.ended = token in self.manifest.tokenizer.eos_token_ids
                if not answer.ended:
                    answer.tokens.append(token)
                    answer.logprobs.append(logprob)
                if answer.ended or len(answer.tokens) >= self.max_new:
                    del pending[row.slot]
                else:
                    pending[row.slot] = ([token], row.cached_len + row.new_len)


def is_right(text: str, answer: Answer, expected: str | None) -> bool:
    """Whether `text` is the expected answer (canonical JSON); None expects nothing right."""
    if expected is None or not answer.ended:
        return False
    try:
        return canonical_bytes(parse_strict(text.encode())).decode() == expected
    except ValueError:
        return False


def _best(logits: FloatArray) -> tuple[int, float]:
    """The likeliest token and its log probability."""
    token = int(np.argmax(logits))
    peak = logits[token]
    return token, -float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
