"""A host over a real store whose models are fakes, for changing them under traffic."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from edge_runtime.bundle.activation import Committed
from edge_runtime.bundle.digests import bundle_digest, model_digest
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.store import Store
from edge_runtime.config import Settings
from edge_runtime.core import Kind, ModelInfo
from edge_runtime.engine.decode_worker import DecodeWorker
from edge_runtime.engine.encode_worker import EncodeWorker
from edge_runtime.engine.fake import FakeDecoder, FakeEncoder
from edge_runtime.engine.load import LoadedModel
from edge_runtime.engine.loop import EngineLoop
from edge_runtime.engine.text import TextStream
from edge_runtime.errors import EdgeError
from edge_runtime.host import Host
from edge_runtime.metrics import NullObserver
from edge_runtime.scheduler.sequences import DecodeLimits
from tests.support.bundles import FakeLoader, write_tiny_bundle
from tests.support.engine import EOS, Clock, letter_tokenizer, load_codec

DECODER = {
    "name": "int8",
    "dtype": "int8",
    "graph": "int8/model.onnx",
    "files": ["int8/model.onnx", "int8/model.onnx_data"],
    "contract": {
        "type": "decoder-packed/1",
        "layers": 1,
        "hidden_size": 4,
        "heads": 1,
        "kv_heads": 1,
        "head_dim": 4,
        "vocab_size": 32,
    },
    "onnxruntime_floor": "1.20.0",
    "opset": 21,
    "ir": 10,
    "size_bytes": 12,
}


class FakeModels(Host):
    """A host that loads fakes: `loaded` by bundle digest, with a gate before each of its steps.

    `refuse` makes every load fail.
    """

    refuse: EdgeError | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.loaded: dict[str, LoadedModel] = {}
        self.gates: dict[str, threading.Event] = {}
        self.swapper.available_bytes = lambda: 1 << 40

    def load(self, directory: Path, manifest: Manifest) -> LoadedModel:
        """A fake of the manifest's kind; its gate is open."""
        if self.refuse is not None:
            raise self.refuse
        digest = bundle_digest(manifest)
        gate = self.gates.setdefault(digest, threading.Event())
        gate.set()
        codec = load_codec(letter_tokenizer(), directory.parent.parent)
        worker: DecodeWorker | EncodeWorker
        if manifest.kind is Kind.GENERATE:
            worker = self._decoder(manifest.name, gate, lambda stop: TextStream(codec, stop))
        else:
            worker = EncodeWorker(
                model=manifest.name,
                encoder=FakeEncoder(on_run=lambda tokens: assert_opened(gate)),
                batch_tokens=64,
                max_waiting_tokens=4096,
                busy_target_ms=10.0,
                observer=NullObserver(),
                clock=Clock(),
            )
        info = ModelInfo(
            name=manifest.name,
            version=manifest.version,
            kind=manifest.kind,
            variant="int8",
            bundle_digest=digest,
            model_digest=model_digest(manifest, "int8"),
            context_tokens=64,
            created_s=0,
        )
        self.loaded[digest] = LoadedModel(info, codec, worker)
        return self.loaded[digest]

    def _decoder(
        self, name: str, gate: threading.Event, make_text: Callable[..., TextStream]
    ) -> DecodeWorker:
        limits = DecodeLimits(
            slots=2,
            max_len=64,
            max_chunk_tokens=16,
            min_chunk_tokens=4,
            inter_token_target_ms=50.0,
            max_waiting=1000,
            max_wait_s=1e6,
        )
        decoder = FakeDecoder(2, 64, on_step=lambda tokens: assert_opened(gate))
        return DecodeWorker(
            model=name,
            decoder=decoder,
            limits=limits,
            eos_token_ids=frozenset({EOS}),
            make_text=make_text,
            deliver=self.deliver,
            observer=NullObserver(),
            clock=Clock(),
            draw_seed=lambda: 7,
        )


def assert_opened(gate: threading.Event) -> None:
    """Hold the engine thread until the gate opens."""
    assert gate.wait(30.0)


def stage(store: Store, root: Path, version: int, *, kind: str = "generate") -> str:
    """Stage version `version` of the bundle `tiny`; other version, other digest."""
    source = root / f"source-{kind}-{version}"
    more = {"variants": [DECODER], "golden": []} if kind == "generate" else {}
    write_tiny_bundle(source, weights=b"w%d" % version, version=f"{version}.0.0", kind=kind, **more)
    return store.stage(source)


@contextlib.asynccontextmanager
async def fake_host(
    root: Path, *, grace_s: float = 0.0, drain_s: float = 60.0, kind: str = "generate"
) -> AsyncIterator[tuple[FakeModels, list[str]]]:
    """A host that serves version 1 of `tiny`; the digests of versions 1 to 3, all staged."""
    settings = Settings.model_validate(
        {"engine": {"swap_grace_s": grace_s, "swap_drain_s": drain_s}}
    )
    with Store.open(root / "store") as store, EngineLoop() as engine:
        digests = [stage(store, root, version, kind=kind) for version in (1, 2, 3)]
        assert isinstance(store.activate("tiny", digests[0], FakeLoader()), Committed)
        host = FakeModels(engine, asyncio.get_running_loop(), store, settings, NullObserver())
        host.replace(host.load(store.directory(digests[0]), store.verify(digests[0])))
        host.loading_reason = ""
        host.swapper.loaded.set()
        try:
            yield host, digests
        finally:
            for gate in host.gates.values():
                gate.set()
            await host.swapper.close()
