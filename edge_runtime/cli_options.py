"""Options that several commands take, and the settings they lead to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.config import Settings
from edge_runtime.config_file import load_settings

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file (TOML).", envvar="EDGE_CONFIG"),
]
StorePath = Annotated[
    Path | None, typer.Option("--store", help="Bundle store; overrides the settings.")
]


def settings_of(config: Path | None, store: Path | None = None) -> Settings:
    """The settings of the file and the environment, with the store named. Raises `ConfigError`."""
    settings = load_settings(config, os.environ)
    if store is None:
        return settings
    placed = settings.store.model_copy(update={"path": store})
    return settings.model_copy(update={"store": placed})
