"""A real daemon as a child process: `edge-runtime` of this Python, in a folder of its own.

Rules
- Its life lies within ours: whatever ends the context ends the child, and waits for that.
- It joins as any box does: `install`, `enroll`, `serve`, one after another.
- A signal to our process group does not reach it; we end it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from edge_runtime.errors import EngineError

PROGRAM: Final = (sys.executable, "-c", "from edge_runtime.cli import app; app()")
READY_S: Final = 60.0
LOOK_S: Final = 0.1
END_S: Final = 20.0
_SAID: Final = 600
_SETTINGS: Final = """
[server]
port = {port}

[store]
path = "{store}"

[agent]
connect_spread_s = 0.0
reconnect_max_s = 2.0
telemetry_interval_s = 1.0
telemetry_send_s = 1.0
max_load = 1.0

[agent.labels]
kind = "real"
"""


@dataclass(frozen=True)
class Daemon:
    """A box to be: its name, the folder it may use, the bundles it serves from the start.

    `settings` is more TOML for its settings file. `port` must be free.
    """

    name: str
    directory: Path
    port: int
    bundles: tuple[Path, ...] = ()
    settings: str = ""

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        """Its settings file."""
        return self.directory / "edge.toml"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.directory / "daemon.log"

    def write_settings(self) -> None:
        """Make the folder and the file. Blocks on the disk."""
        self.directory.mkdir(parents=True, exist_ok=True)
        text = _SETTINGS.format(port=self.port, store=self.directory / "store")
        self.config.write_text(text + self.settings, "utf-8")

    @contextlib.asynccontextmanager
    async def joined(
        self, control_url: str, claim: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Install, enrol and serve while inside; the child once it is ready. Raises `EdgeError`."""
        await asyncio.to_thread(self.write_settings)
        for bundle in self.bundles:
            await self._to_its_end("install", str(bundle))
        await self._to_its_end("enroll", control_url, "--box", self.name, claim=claim)
        async with self.serving() as child:
            yield child

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Serve while inside, what is installed, as whom it was enrolled. Raises `EngineError`."""
        async with self._child("serve") as child:
            await self._ready(child)
            yield child

    async def _to_its_end(self, *words: str, claim: str | None = None) -> None:
        async with self._child(*words, claim=claim) as child:
            if await child.wait():
                raise EngineError(f"edge-runtime {words[0]}: {await self._last_words()}")

    @contextlib.asynccontextmanager
    async def _child(
        self, *words: str, claim: str | None = None
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        with self.log.open("ab") as sink:
            child = await asyncio.create_subprocess_exec(
                *PROGRAM, *words, "--config", str(self.config),
                stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink,
                env=_environment(self.directory, claim), start_new_session=True,
            )  # fmt: skip
        try:
            yield child
        finally:
            await asyncio.shield(_ended(child))

    async def _ready(self, child: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S), aiohttp.ClientSession(self.url) as session:
                while child.returncode is None:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get("/health") as response:
                            if response.status == 200:
                                return
                    await asyncio.sleep(LOOK_S)
        raise EngineError(f"the daemon {self.name} is not ready: {await self._last_words()}")

    async def _last_words(self) -> str:
        data = await asyncio.to_thread(self.log.read_bytes)
        return data[-_SAID:].decode("utf-8", "replace").strip()


async def _ended(child: asyncio.subprocess.Process) -> None:
    """End a child, if it has not ended: first in order, then at once."""
    with contextlib.suppress(ProcessLookupError):
        if child.returncode is None:
            child.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await child.wait()
        if child.returncode is None:
            child.kill()
            await child.wait()


def _environment(directory: Path, claim: str | None) -> Mapping[str, str]:
    """Ours, so that it finds the same packages; a claim is for nobody's process list.

    Libraries leave files in the folder for temporary ones: it is the daemon's own.
    """
    own = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": str(directory),
    }
    return {**os.environ, **own, **({} if claim is None else {"EDGE_CLAIM": claim})}
