"""The base of every table of the settings file, and the types they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _expand(path: Path) -> Path:
    return path.expanduser()


HomePath = Annotated[Path, AfterValidator(_expand)]


class Section(BaseModel):
    """A table of the settings file; a key it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
