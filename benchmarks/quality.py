"""Quality of the built-in models through HTTP, on examples that training never saw.

    python -m benchmarks.quality assistant --url http://127.0.0.1:8080 --data DIR
    python -m benchmarks.quality intent    --url http://127.0.0.1:8080 --data DIR

`DIR` holds `snips/train.jsonl` (the recipe's held-out part of it is used) and
`clinc150/validation.jsonl`. `--file` scores another labelled file, whole, instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from benchmarks.http_client import post_all
from benchmarks.machine import describe_machine
from export_tools.train.data import Example, read_examples, split_examples
from export_tools.train.recipe import load_train_config
from export_tools.train.snips_score import Parse, parse_answer, score_parses

MODELS = Path(__file__).resolve().parents[1] / "models"
CONCURRENCY = 16


def _assistant_examples(data: Path) -> list[Example]:
    config = load_train_config(MODELS / "assistant" / "recipe.toml")
    examples = read_examples(data / config.dataset / "train.jsonl")
    return split_examples(examples, config.split).heldout


async def assistant(url: str, model: str, examples: list[Example]) -> dict[str, Any]:
    """Intent and slot figures of greedy chat answers, as the Snips benchmark counts them."""
    bodies = [
        {
            "model": model,
            "messages": [{"role": "user", "content": example.text}],
            "temperature": 0,
        }
        for example in examples
    ]
    answers = await post_all(f"{url}/v1/chat/completions", bodies, concurrency=CONCURRENCY)
    truth = [Parse(e.intent, tuple((s.slot, s.text) for s in e.slots)) for e in examples]
    contents = [answer["choices"][0]["message"]["content"] for answer in answers]
    return score_parses(truth, [parse_answer(content) for content in contents]).summary()


async def intent(url: str, model: str, examples: list[Example]) -> dict[str, Any]:
    """Accuracy of the first label over in-scope examples."""
    bodies = [{"model": model, "input": example.text, "top_k": 1} for example in examples]
    answers = await post_all(f"{url}/v1/classify", bodies, concurrency=CONCURRENCY)
    right = sum(
        answer["data"][0]["label"] == example.intent
        for answer, example in zip(answers, examples, strict=True)
    )
    return {"examples": len(examples), "accuracy": right / len(examples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("assistant", "intent"))
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", help="default: assistant or intent-clinc150")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--file", type=Path, help="score this file instead, whole")
    parser.add_argument("--limit", type=int, help="only the first N examples")
    args = parser.parse_args()
    if args.task == "assistant":
        examples = read_examples(args.file) if args.file else _assistant_examples(args.data)
        run = assistant(args.url, args.model or "assistant", examples[: args.limit])
    else:
        file = args.file or args.data / "clinc150" / "validation.jsonl"
        in_scope = [example for example in read_examples(file) if example.intent != "oos"]
        run = intent(args.url, args.model or "intent-clinc150", in_scope[: args.limit])
    print(json.dumps({"figures": asyncio.run(run), "machine": describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
