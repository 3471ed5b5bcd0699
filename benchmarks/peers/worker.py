"""What the peers' workers share: their command line and the lines they speak.

Runs inside the peers' own virtual environment, as ``python -m benchmarks.peers.NAME_engine`` from
the repository's root, and imports nothing but the standard library. A worker reads one JSON object
a line from stdin and answers each with one JSON object on stdout, so that a driver can alternate
rounds between engines. Between two requests it blocks on stdin and uses no CPU.

Requests::

    {"op": "info"}
    {"op": "round", "prompts": [[17, 4, ...], ...], "new_tokens": 64}
    {"op": "quit"}

A round starts all its prompts at once, greedy, ignoring the end token. Its answer is
``{"wall_s", "streams": [{"first_s", "last_s", "tokens"}, ...]}`` with times in seconds since the
first prompt was handed over. Prompts are token ids handed over in process: a peer pays for neither
HTTP nor tokenisation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TextIO


class Engine(Protocol):
    """One loaded model with the settings it was given; rounds run one at a time."""

    def info(self) -> dict[str, Any]:
        """What it is and how it is set, for the report."""
        ...

    def round(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        """Start one greedy stream a prompt, all at once, and step until all have finished."""
        ...


def parser(description: str, model: str) -> argparse.ArgumentParser:
    """The options that every worker has; ``model`` says what the model's path must be."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--model", required=True, help=model)
    options.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options.add_argument("--property", action="append", default=[], metavar="KEY=VALUE")
    return options


def properties(items: Iterable[str]) -> dict[str, str]:
    """The values of ``--property`` by key."""
    pairs = (item.partition("=") for item in items)
    return {key: value for key, _, value in pairs}


def answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request; an error is an answer too, so that no driver waits for ever."""
    try:
        op = request["op"]
        if op == "info":
            return engine.info()
        if op == "round":
            return engine.round(request["prompts"], request["new_tokens"])
        raise ValueError(f"unknown op {op!r}; use info, round or quit")
    except Exception as error:  # noqa: BLE001 - one bad round must reach the driver, not hang it
        return {"error": f"{type(error).__name__}: {error}"}


def exchange(engine: Engine, requests: Iterable[str], answers: TextIO) -> None:
    """Announce the engine as ready, then answer line by line until told to quit or at the end."""
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        if request.get("op") == "quit":
            return
        print(json.dumps(answer(engine, request)), file=answers, flush=True)


def serve(load: Callable[[], Engine]) -> None:
    """Load the engine and answer on stdout until stdin ends.

    The engine's libraries may print to stdout: answers get a descriptor of their own.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    exchange(load(), sys.stdin, answers)
