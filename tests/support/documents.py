"""Settings documents of a fleet, signed, and as a box keeps them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.envelope import open_envelope, seal, trust
from edge_runtime.bundle.files import RealFiles, make_dirs
from edge_runtime.bundle.pointer import Pointer
from edge_runtime.bundle.pointers import Pointers
from edge_runtime.bundle.targets import SETTINGS_TYPE

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def signed(document: dict[str, Any]) -> bytes:
    """The envelope of a document."""
    return seal(canonical_bytes(document), SETTINGS_TYPE, [KEY])


def open_signed(data: bytes) -> bytes:
    """The payload of an envelope that `KEY` signed."""
    return open_envelope(data, SETTINGS_TYPE, trust([KEY.public_key()]), name="settings")


def keep(directory: Path, name: str, document: dict[str, Any]) -> Path:
    """Let a document count for the box whose agent's folder this is; the file it lies in."""
    files, data = RealFiles(), signed(document)
    digest = hashlib.sha256(data).hexdigest()
    for folder in ("active", "kept"):
        make_dirs(files, directory / "settings" / folder)
    path = directory / "settings" / "kept" / digest
    path.write_bytes(data)
    pointers = Pointers(directory / "settings" / "active", files)
    pointers.write(Pointer(name=name, bundle_digest=digest))
    return path
