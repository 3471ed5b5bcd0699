"""Tiny real bundles, built from random checkpoints without torch, and a store that serves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.bundle.activation import Committed
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.pack import load_manifest, pack
from edge_runtime.bundle.store import Store
from edge_runtime.config import Settings
from edge_runtime.engine.load import LoadedModel, load_model
from edge_runtime.host import bundle_loader
from edge_runtime.metrics import NullObserver
from export_tools.build import Identity, Request, build
from tests.support import decoders, encoders

CONTEXT = 128


def unchecked(*_: object) -> dict[str, Any]:
    """A gate that lets everything pass; gates have tests of their own."""
    return {}


def build_decoder(directory: Path, *, name: str = "tiny") -> Path:
    """A random two-layer Llama, int8, with a chat template. Returns the bundle."""
    source = decoders.write_checkpoint(
        directory / f"{name}-source", max_position_embeddings=CONTEXT
    )
    build(Request(source, directory / name, Identity(name)), gate=unchecked)
    return directory / name


def build_encoder(
    directory: Path, *, name: str = "tiny-encoder", labels: tuple[str, ...] = ()
) -> Path:
    """A random two-layer BERT, int8; with `labels`, a classifier. Returns the bundle."""
    source = encoders.write_checkpoint(directory / f"{name}-source", labels=labels)
    build(Request(source, directory / name, Identity(name)), gate=unchecked)
    return directory / name


def change_manifest(bundle: Path, **changes: Any) -> Manifest:
    """Pack the bundle anew with sections replaced."""
    document = load_manifest(bundle).document()
    del document["files"]
    (bundle / "manifest.json").unlink()
    return pack(bundle, {**document, **changes})


def make_settings(store: Path, **engine: Any) -> Settings:
    """Small limits, one thread, a free port."""
    return Settings.model_validate(
        {
            "server": {"port": 0, "drain_timeout_s": 5.0},
            "store": {"path": str(store)},
            "models": {"default_slots": 4},
            "engine": {"threads": 1, "max_chunk_tokens": 32, **engine},
        }
    )


def load(bundle: Path, settings: Settings | None = None) -> LoadedModel:
    """The bundle's model, as the daemon loads it."""
    return load_model(
        bundle,
        load_manifest(bundle),
        settings or make_settings(bundle.parent / "unused"),
        deliver=lambda events: None,
        observer=NullObserver(),
    )


def install(settings: Settings, bundles: Sequence[Path]) -> None:
    """Put bundles into the store and activate them."""
    with Store.open(settings.store.path) as store:
        for bundle in bundles:
            digest = store.stage(bundle)
            outcome = store.activate(load_manifest(bundle).name, digest, bundle_loader(settings))
            assert isinstance(outcome, Committed), outcome
