"""What a round of a benchmark is, and what is computed from it. Pure.

Both contestants are measured by the same definitions:

- throughput: generated tokens of all streams / seconds from the first request sent to the last
  stream finished. The prompts' prefill is inside.
- decode rate: the sum over streams of (tokens - 1) / (last token - first token). Prefill of a
  stream's own prompt is outside.
- prefill rate: prompt tokens / seconds until the one generated token is there.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

LOWEST_RANDOM_ID = 10  # below lie the special tokens of many vocabularies


@dataclass(frozen=True)
class Stream:
    """One answer: seconds since the round began until its first and last token; its tokens."""

    first_s: float
    last_s: float
    tokens: int


@dataclass(frozen=True)
class Round:
    """All streams of one contestant in one round, and what others used of the CPU meanwhile."""

    contestant: str
    concurrency: int
    prompt_tokens: int
    new_tokens: int
    wall_s: float
    streams: tuple[Stream, ...]
    foreign_share: float = 0.0

    def __post_init__(self) -> None:
        tokens = [stream.tokens for stream in self.streams]
        if tokens != [self.new_tokens] * self.concurrency:
            raise ValueError(
                f"{self.contestant} generated {tokens} tokens instead of {self.concurrency} x "
                f"{self.new_tokens}: it must honour ignore_eos and max_tokens to be compared"
            )

    @property
    def is_prefill(self) -> bool:
        return self.new_tokens == 1

    @property
    def throughput(self) -> float:
        """Generated tokens a second, prefill included; for a prefill round, prompt tokens."""
        counted = self.prompt_tokens if self.is_prefill else self.new_tokens
        return self.concurrency * counted / self.wall_s

    @property
    def decode_rate(self) -> float | None:
        """Tokens a second after each stream's first; None where there is no second token."""
        if self.is_prefill or any(stream.last_s <= stream.first_s for stream in self.streams):
            return None
        return sum((s.tokens - 1) / (s.last_s - s.first_s) for s in self.streams)

    @property
    def first_token_s(self) -> float:
        """Median over the streams."""
        return statistics.median(stream.first_s for stream in self.streams)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "throughput": self.throughput,
            "decode_rate": self.decode_rate,
            "first_token_s": self.first_token_s,
        }


@dataclass(frozen=True)
class Load:
    """One kind of round: how many streams, how long the prompts and the answers."""

    concurrency: int
    prompt_tokens: int
    new_tokens: int

    @property
    def name(self) -> str:
        if self.new_tokens == 1:
            return f"prefill {self.prompt_tokens}"
        return f"decode x{self.concurrency}"


def random_prompts(load: Load, vocab: int, seed: Sequence[int]) -> list[list[int]]:
    """Uniform token ids, the same for every contestant; fresh seeds leave no prefix to reuse."""
    shape = (load.concurrency, load.prompt_tokens)
    drawn: list[list[int]] = (
        np.random.default_rng(seed).integers(LOWEST_RANDOM_ID, vocab, shape).tolist()
    )
    return drawn


def order_of(contestants: Sequence[str], round_index: int) -> list[str]:
    """Who goes first changes every round, so that drift of the machine hits all alike."""
    shift = round_index % len(contestants)
    return [*contestants[shift:], *contestants[:shift]]


@dataclass
class Summary:
    """Medians of one load over the rounds, by contestant, and ours over each peer's."""

    load: Load
    rounds: list[Round] = field(default_factory=list)

    def _of(self, contestant: str) -> list[Round]:
        return [entry for entry in self.rounds if entry.contestant == contestant]

    def throughput(self, contestant: str) -> float:
        return statistics.median(entry.throughput for entry in self._of(contestant))

    def spread(self, contestant: str) -> tuple[float, float]:
        """Lowest and highest throughput seen."""
        values = [entry.throughput for entry in self._of(contestant)]
        return min(values), max(values)

    def decode_rate(self, contestant: str) -> float | None:
        values = [entry.decode_rate for entry in self._of(contestant)]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    def first_token_s(self, contestant: str) -> float:
        return statistics.median(entry.first_token_s for entry in self._of(contestant))

    def ratio(self, ours: str, peer: str) -> float:
        """Median over the rounds of ours / peer within the same round.

        Paired, so that a slow minute of a shared machine weighs on both sides of one ratio.
        """
        pairs = zip(self._of(ours), self._of(peer), strict=True)
        return statistics.median(a.throughput / b.throughput for a, b in pairs)


def summarise(loads: Iterable[Load], rounds: Iterable[Round]) -> list[Summary]:
    """One Summary a load, in the order of ``loads``; rounds keep their order."""
    summaries = {load: Summary(load) for load in loads}
    for entry in rounds:
        load = Load(entry.concurrency, entry.prompt_tokens, entry.new_tokens)
        summaries[load].rounds.append(entry)
    return list(summaries.values())


def markdown(
    summaries: Sequence[Summary],
    contestants: Sequence[str],
    machine: Mapping[str, object],
    about: Mapping[str, object],
) -> str:
    """The table for the docs: medians (lowest-highest), paired ratios, and what they were taken on.

    The first contestant is ours.
    """
    ours, *peers = contestants
    heads = [*contestants, *(f"ratio to {peer}" for peer in peers), "highest foreign CPU share"]
    flags = ", ".join(map(str, _listed(machine["cpu_flags"])))
    size = f"{machine['cores']} cores ({flags}), {machine['memory_gib']} GiB"
    lines = [
        f"Machine: {machine['cpu']}, {size}; {machine['date']}.",
        "",
        f"| load, tokens a second | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for summary in summaries:
        cells = []
        for name in contestants:
            low, high = summary.spread(name)
            cells.append(f"{summary.throughput(name):.1f} ({low:.1f}-{high:.1f})")
        cells += [f"{summary.ratio(ours, peer):.2f}" for peer in peers]
        cells.append(f"{max(entry.foreign_share for entry in summary.rounds):.0%}")
        lines.append(f"| {summary.load.name} | {' | '.join(cells)} |")
    lines += ["", f"| first token, ms; decode rate | {' | '.join(contestants)} |"]
    lines.append(f"|---|{'---|' * len(contestants)}")
    for summary in summaries:
        cells = [_detail(summary, name) for name in contestants]
        lines.append(f"| {summary.load.name} | {' | '.join(cells)} |")
    lines += ["", *(f"- {key}: {value}" for key, value in about.items()), ""]
    return "\n".join(lines)


def _detail(summary: Summary, name: str) -> str:
    rate = summary.decode_rate(name)
    first = f"{summary.first_token_s(name) * 1000:.0f}"
    return first if rate is None else f"{first}; {rate:.1f}"


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]
