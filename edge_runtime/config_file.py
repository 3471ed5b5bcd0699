"""Read the daemon's settings: one TOML file, then environment variables (`EDGE_<SECTION>__<KEY>`).

Example:
    settings = load_settings(Path("edge.toml"), os.environ)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.config import Settings
from edge_runtime.config_loader import SettingsLoader, settings_toml

__all__ = ["ENV_PREFIX", "load_settings", "parse_settings", "settings_toml"]

ENV_PREFIX = "EDGE_"
_LOADER = SettingsLoader(Settings, ENV_PREFIX)


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read, merge and check. `path` None means no file.

    Raises `ConfigError` naming every wrong key, not only the first.
    """
    return _LOADER.load(path, environ)


def parse_settings(data: Mapping[str, Any]) -> Settings:
    """Check settings that were read already. Raises `ConfigError`."""
    return _LOADER.parse(data)
