"""Settings that came from the fleet, over those of the box's own file.

Rules
- A document is a table of sections, as in the settings file. Sections that say where a box
  listens, what it stores where and whose fleet it is in are the box's own and refused.
- It is checked as a whole with the box's settings before it is kept; what does not fit is
  refused with the key and the reason.
- Documents apply in the order of their names, at the daemon's start. One that does not fit any
  more (the box's own file changed) is left out and said aloud: it never keeps a box from serving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from pydantic import BaseModel

from edge_runtime.bundle.canonical import parse_strict
from edge_runtime.errors import BundleError, ConfigError

log: Final = structlog.get_logger("edge_runtime.agent")

LOCAL: Final = frozenset({"server", "store", "agent", "log"})
FOLDER: Final = "overlay"
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


def with_overlays(
    settings: _Settings, parse: Callable[[Mapping[str, Any]], _Settings], directory: Path
) -> _Settings:
    """The settings as the fleet wants them; `directory` is the agent's."""
    folder = directory / FOLDER
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            settings = over_settings(settings, parse, parse_overlay(path.read_bytes()))
        except (OSError, BundleError) as error:
            log.error(  # noqa: TRY400 - the reason says it all
                "fleet settings left out", action="overlay_refused", name=path.stem,
                reason=str(error),
            )  # fmt: skip
    return settings
