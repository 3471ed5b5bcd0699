"""Training of the built-in models, by recipe. Needs the `train` extra (torch, transformers).

Importing this package costs nothing: torch is loaded when `train` is called.
"""

from __future__ import annotations

from export_tools.train.recipe import RecipeError
from export_tools.train.run import train

__all__ = ["RecipeError", "train"]
