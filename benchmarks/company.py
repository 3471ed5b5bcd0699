"""Whether an answer is the same alone and in company.

    python -m benchmarks.company --url http://127.0.0.1:8080 --model NAME

Asks `--requests` greedy completions of random prompts one after the other, then again all at once
in shuffled order, and compares the texts token by token. Where two differ, the log probabilities
at the first differing token say how near a tie it was. A slot's reused prefix would hide an
error, so every prompt begins differently and the second round adds company to every step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from typing import Any

from benchmarks.http_client import post_all
from benchmarks.machine import describe_machine

NEAR_TIE = 0.02
"""Log-probability gap between the two best tokens below which rounding may choose."""


def make_bodies(model: str, count: int, new_tokens: int, vocab: int, seed: int) -> list[Any]:
    """Greedy requests with prompts of 4 to 96 random tokens and answers of various lengths."""
    rng = random.Random(seed)
    return [
        {
            "model": model,
            "prompt": [rng.randrange(vocab) for _ in range(rng.randint(4, 96))],
            "max_tokens": rng.randint(new_tokens // 2, new_tokens),
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": 2,
        }
        for _ in range(count)
    ]


def first_difference(alone: dict[str, Any], company: dict[str, Any]) -> float | None:
    """None when both answers have the same tokens, else the gap at the first that differs."""
    left, right = (answer["choices"][0]["logprobs"] for answer in (alone, company))
    for place, (a, b) in enumerate(zip(left["tokens"], right["tokens"], strict=True)):
        if a != b:
            best = sorted(left["top_logprobs"][place].values(), reverse=True)
            return float(best[0] - best[1]) if len(best) > 1 else 0.0
    return None


async def compare(url: str, bodies: list[Any], concurrency: int, seed: int) -> dict[str, Any]:
    """Both rounds and what differed."""
    target = f"{url}/v1/completions"
    alone = await post_all(target, bodies, concurrency=1)
    order = list(range(len(bodies)))
    random.Random(seed).shuffle(order)
    shuffled = await post_all(target, [bodies[i] for i in order], concurrency=concurrency)
    company = [
        answer for _, answer in sorted(zip(order, shuffled, strict=True), key=lambda p: p[0])
    ]
    gaps = [first_difference(a, b) for a, b in zip(alone, company, strict=True)]
    different = [gap for gap in gaps if gap is not None]
    return {
        "requests": len(bodies),
        "concurrency": concurrency,
        "identical": len(bodies) - len(different),
        "identical_share": 1 - len(different) / len(bodies),
        "gaps_at_first_difference": different,
        "after_near_ties": sum(gap <= NEAR_TIE for gap in different),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=151_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    bodies = make_bodies(args.model, args.requests, args.new_tokens, args.vocab, args.seed)
    figures = asyncio.run(compare(args.url, bodies, args.concurrency, args.seed))
    print(json.dumps({"figures": figures, "machine": describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
