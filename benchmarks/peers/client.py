"""Drives a peer engine's worker process over JSON lines (see ``worker.py``)."""

from __future__ import annotations

import json
import subprocess
from types import TracebackType
from typing import Any, Self


class PeerError(RuntimeError):
    """The peer's worker refused a round or went away; its own stderr says why."""


class PeerProcess:
    """A running worker; a context manager that ends it.

    ``command`` is the whole command line, usually the peers' own interpreter and the worker's
    module. Entering loads the model, which takes seconds.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if not self._read().get("ready"):
            raise PeerError(f"{self._command[0]} did not announce itself as ready")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._running()
        if process.stdin is not None:
            process.stdin.close()  # end of input is how a worker learns that it may leave
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer; raises PeerError on an error answer."""
        stdin = self._running().stdin
        if stdin is None:
            raise PeerError("the worker has no stdin")
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise PeerError("the worker has ended; see its stderr above") from error
        answer = self._read()
        if "error" in answer:
            raise PeerError(f"the peer failed at {request}: {answer['error']}")
        return answer

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise PeerError("enter the context before using the worker")
        return self._process

    def _read(self) -> dict[str, Any]:
        stdout = self._running().stdout
        line = stdout.readline() if stdout is not None else ""
        if not line:
            code = self._running().poll()
            raise PeerError(f"the worker ended (exit code {code}); see its stderr above")
        answer: dict[str, Any] = json.loads(line)
        return answer
