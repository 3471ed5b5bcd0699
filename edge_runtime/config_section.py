"""The base of every table of the settings file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the settings file; a key it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
