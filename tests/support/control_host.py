"""A whole control host in a folder: settings, keys, a repository."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleet.publish.initial import initialise
from fleet.publish.repository import Repository
from fleet.settings import FleetSettings


def settings_in(folder: Path, **changes: Any) -> FleetSettings:
    """Settings with everything below `folder`; sections may be given as tables."""
    values: dict[str, Any] = {
        "state": {"dir": folder / "state"},
        "database": {"url": f"sqlite:///{folder}/fleet.db"},
        "api": {"port": 0},
        "ingest": {"commit_wait_ms": 5},
        "publish": {"repository": folder / "repository", "keys": [folder / "keys" / "online"]},
    }
    for name, table in changes.items():
        values[name] = {**values.get(name, {}), **table}
    return FleetSettings.model_validate(values)


def initialise_in(folder: Path) -> None:
    """Keys and the first metadata, as `edge-fleet keys init` makes them."""
    initialise(
        Repository(folder / "repository"),
        folder / "keys",
        now=datetime.now(UTC),
        models=["assistant"],
    )
