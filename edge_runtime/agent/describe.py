"""What reports say of a thing that counts on this box, beyond its digest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge_runtime import __version__
from edge_runtime.agent.documents import SettingsDocuments
from edge_runtime.agent.protocol import MAX_WAITING, ItemKind
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.errors import BundleError, EdgeError
from edge_runtime.host import Host


@dataclass(slots=True)
class Describe:
    """See the module; remembers the releases of bundles by digest."""

    host: Host
    documents: SettingsDocuments
    _releases: dict[str, int] = field(default_factory=dict)

    def __call__(self, kind: ItemKind, name: str, digest: str) -> dict[str, Any]:
        if kind is ItemKind.SETTINGS:
            return {"at_next_start": self._at_next_start()}
        if kind is ItemKind.DAEMON:
            return {"version": __version__}
        try:
            if digest not in self._releases:
                manifest = load_manifest(self.host.store.directory(digest))
                self._releases[digest] = manifest.release
            info = self.host.info(name)
        except (EdgeError, BundleError):
            return {}
        told = {"release": self._releases[digest]}
        if info.bundle_digest != digest:
            return told
        return {**told, "version": info.version[:96], "model_digest": info.model_digest}

    def _at_next_start(self) -> tuple[str, ...]:
        keys = tuple(key[:96] for key in self.documents.at_next_start)
        if len(keys) <= MAX_WAITING:
            return keys
        kept = MAX_WAITING - 1
        return (*keys[:kept], f"and {len(keys) - kept} more")
