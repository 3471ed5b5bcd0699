"""Start the daemon in the foreground and, once it is ready, print where it is and what to paste.

The daemon keeps the terminal: its log goes to standard error, and Ctrl-C stops it. This script
only watches `/health` from beside it and ends with the daemon's own exit status.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

EXAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "intent-clinc150": (
        "/v1/classify",
        {
            "model": "intent-clinc150",
            "input": "how much is left in my checking account",
            "top_k": 3,
        },
    ),
    "assistant": (
        "/v1/chat/completions",
        {
            "model": "assistant",
            "messages": [{"role": "user", "content": "play some jazz by miles davis"}],
        },
    ),
    "minilm-l6": ("/v1/embeddings", {"model": "minilm-l6", "input": "a sentence to embed"}),
}
"""One request a built-in model; the first two that are served are shown."""


def served_models(base_url: str) -> set[str] | None:
    """Return the names of the models served at `base_url`, or None while it is not ready."""
    try:
        with urllib.request.urlopen(f"{base_url}/health", timeout=5):
            pass
        with urllib.request.urlopen(f"{base_url}/v1/models", timeout=5) as response:
            return {str(model["id"]) for model in json.load(response)["data"]}
    except (urllib.error.URLError, OSError):
        return None


def listens(host: str, port: int) -> bool:
    """Return whether somebody answers there already, whom we would take for our daemon."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def curl_line(base_url: str, path: str, body: dict[str, Any]) -> str:
    """Return a command that works when pasted into a shell."""
    return f"curl -s {base_url}{path} -H 'content-type: application/json' -d '{json.dumps(body)}'"


def announce_when_ready(base_url: str, stopped: threading.Event) -> None:
    """Poll until the daemon is ready or has `stopped`, then print its address and two requests."""
    while not stopped.wait(0.25):
        models = served_models(base_url)
        if models is not None and not stopped.is_set():
            shown = [example for name, example in EXAMPLES.items() if name in models][:2]
            lines = [f"edge-runtime is ready on {base_url} with {', '.join(sorted(models))}", ""]
            lines += [curl_line(base_url, path, body) for path, body in shown]
            print("\n".join(["", *lines, "", "Ctrl-C stops it."]), flush=True)
            return


def main() -> int:
    """Run the daemon to its end and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()

    if listens(args.host, args.port):
        print(
            f"{args.host}:{args.port} is in use; stop what listens there, or: make run PORT=9000",
            file=sys.stderr,
        )
        return 1
    environment = os.environ | {
        "EDGE_SERVER__HOST": args.host,
        "EDGE_SERVER__PORT": str(args.port),
    }
    command = [str(Path(sys.executable).with_name("edge-runtime")), "serve", "--store", args.store]
    daemon = subprocess.Popen(command, env=environment)
    # Ctrl-C reaches the daemon from the terminal; a TERM sent to this process is passed on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: daemon.terminate())

    stopped = threading.Event()
    watcher = threading.Thread(
        target=announce_when_ready,
        args=(f"http://{args.host}:{args.port}", stopped),
        name="announce",
        daemon=True,
    )
    watcher.start()
    status = daemon.wait()
    stopped.set()
    watcher.join(timeout=10)
    return status


if __name__ == "__main__":
    sys.exit(main())
