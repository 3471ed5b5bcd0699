"""Settings that came from the fleet, over those of the box's own file.

Rules
- A document is a table of sections, as in the settings file. Sections that say where a box
  listens, what it stores where and whose fleet it is in are the box's own and refused.
- It is checked as a whole with the box's settings before it is kept; what does not fit is
  refused with the key and the reason.
- Documents apply in the order of their names over the box's own file. Which count, the pointers
  of their shelf say. Their signatures were verified before a pointer named them.
- One that does not fit any more (the box's own file changed) is left out and said aloud: it never
  keeps a box from serving.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from pydantic import BaseModel

from edge_runtime.bundle.canonical import parse_strict
from edge_runtime.bundle.envelope import kept_payload
from edge_runtime.bundle.files import Files, RealFiles, exists
from edge_runtime.bundle.pointers import Pointers
from edge_runtime.bundle.targets import SETTINGS_TYPE
from edge_runtime.errors import BundleError, ConfigError

log: Final = structlog.get_logger("edge_runtime.agent")

LOCAL: Final = frozenset({"server", "store", "agent", "log"})
SHELF: Final = "settings"
NONE: Final = b"{}"
"""The document that changes nothing: what a box had before the fleet's first one."""
MAX_BYTES: Final = 1024 * 1024
_Settings = TypeVar("_Settings", bound=BaseModel)


def parse_overlay(data: bytes) -> dict[str, Any]:
    """The sections of a settings document. Raises `BundleError`."""
    try:
        document = parse_strict(data)
    except ValueError as error:
        raise BundleError("settings", str(error)) from error
    if not isinstance(document, dict) or not all(
        isinstance(section, dict) for section in document.values()
    ):
        raise BundleError("settings", "must be a table of sections, as in the settings file")
    own = sorted(LOCAL & set(document))
    if own:
        raise BundleError("settings", f"may not change what is the box's own: {', '.join(own)}")
    return document


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`; tables are merged, all else is replaced. Pure."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result


def over_settings(
    settings: _Settings, parse: Callable[[Mapping[str, Any]], _Settings], document: dict[str, Any]
) -> _Settings:
    """The settings with one document over them, checked by `parse`. Raises `BundleError`."""
    try:
        return parse(merged(settings.model_dump(mode="json", exclude_unset=True), document))
    except ConfigError as error:
        raise BundleError("settings", str(error)) from error


def layered(
    own: _Settings,
    parse: Callable[[Mapping[str, Any]], _Settings],
    documents: Mapping[str, dict[str, Any]],
) -> tuple[_Settings, dict[str, str]]:
    """The box's own settings under the documents, and why some of them were left out, by name."""
    settings, left_out = own, {}
    for name in sorted(documents):
        try:
            settings = over_settings(settings, parse, documents[name])
        except BundleError as error:
            left_out[name] = str(error)
    return settings, left_out


def with_overlays(
    own: _Settings, parse: Callable[[Mapping[str, Any]], _Settings], directory: Path
) -> _Settings:
    """The settings as the fleet wants them; `directory` is the agent's."""
    settings, left_out = layered(own, parse, kept_documents(directory, RealFiles()))
    for name, reason in left_out.items():
        _say_left_out(name, reason)
    return settings


def kept_documents(directory: Path, files: Files) -> dict[str, dict[str, Any]]:
    """The documents that count on this box, by name; damaged ones are left out and said aloud."""
    active, kept = directory / SHELF / "active", directory / SHELF / "kept"
    found: dict[str, dict[str, Any]] = {}
    if not exists(files, active):
        return found
    pointers = Pointers(active, files)
    for name in pointers.names():
        try:
            pointer = pointers.read(name)
            if pointer is not None:
                found[name] = _kept(files.read(kept / pointer.bundle_digest, MAX_BYTES + 1),
                                    pointer.bundle_digest)  # fmt: skip
        except (OSError, BundleError) as error:
            _say_left_out(name, str(error))
    return found


def _kept(data: bytes, digest: str) -> dict[str, Any]:
    if hashlib.sha256(data).hexdigest() != digest:
        raise BundleError("settings", "is damaged on the disk")
    if data == NONE:
        return {}
    return parse_overlay(kept_payload(data, SETTINGS_TYPE, name="settings"))


def _say_left_out(name: str, reason: str) -> None:
    log.error("fleet settings left out", action="overlay_refused", name=name, reason=reason)
