"""The frontier stand-in as a command: it answers, can be changed, and shows its bill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path, repository: Path) -> None:
    table = tmp_path / "table.jsonl"
    table.write_text('{"text": "hi", "intent": "greeting"}\n{"text": "what", "intent": "oos"}\n')
    command = [
        sys.executable, "-m", "benchmarks.frontier_standin", "--table", str(table),
        "--wrong", "0", "--rename", "oos=none",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, cwd=repository, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            url = child.stdout.readline().split()[0]
            root = url.removesuffix("/v1")
            chat = {"model": "m", "messages": [{"role": "user", "content": "what"}]}
            answer = ask(f"{url}/chat/completions", chat)
            assert answer["choices"][0]["message"]["content"] == "none"
            bill = ask(f"{root}/bill?entries=1")
            assert bill["requests"] == 1
            assert bill["entries"][0]["in"] == answer["usage"]["prompt_tokens"]
            assert ask(f"{root}/control", {"out_of_credit": 1.0})["out_of_credit"] == 1.0
            for wrong in ({"out_of_credit": 2}, {"unknown": 1}):
                with pytest.raises(urllib.error.HTTPError, match="400"):
                    ask(f"{root}/control", wrong)
            with pytest.raises(urllib.error.HTTPError, match="402"):
                ask(f"{url}/chat/completions", chat)
        finally:
            child.send_signal(signal.SIGINT)
            code = child.wait(20)
    assert code == 0
