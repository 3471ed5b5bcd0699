"""What a training recipe may say, and how it is read.

A recipe is the `recipe.toml` of one folder under `models/`. Its `[train]` table holds every number
that decides the weights, seeds included; the rest of the file belongs to the exporter and is left
alone here.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edge_runtime.errors import ConfigError


class RecipeError(ConfigError):
    """The recipe cannot be used as it is; the message names the key and what it must hold."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitConfig(_Table):
    """How `train.jsonl` is divided: by a salted hash of each text's near-duplicate key."""

    salt: str = "split-1"
    dev_percent: float = Field(5.0, ge=0, le=50)
    heldout_percent: float = Field(0.0, ge=0, le=50)


class LoopConfig(_Table):
    """AdamW with a linear warm-up, a plateau, and a linear fall to `final_lr_ratio`.

    The last `polish_epochs` of the `epochs` come after the fall: the rate stays at
    `polish_lr_ratio` of its peak and the weights are averaged over all of them alike (stochastic
    weight averaging, Izmailov et al. 2018).
    """

    seed: int = 1
    epochs: int = Field(ge=1)
    batch_tokens: int = Field(ge=64)
    lr: float = Field(gt=0)
    head_lr: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    beta2: float = Field(0.98, gt=0, lt=1)
    warmup_epochs: float = Field(0.5, ge=0)
    decay_fraction: float = Field(0.3, gt=0, le=1)
    final_lr_ratio: float = Field(0.01, ge=0, le=1)
    clip_norm: float = Field(1.0, gt=0)
    ema_steps: int = Field(0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = Field(2, ge=1)
    eval_every: int = Field(1, ge=1)
    polish_epochs: int = Field(0, ge=0)
    polish_lr_ratio: float = Field(0.1, gt=0, le=1)

    @property
    def main_epochs(self) -> int:
        """Epochs before the polish."""
        return max(0, self.epochs - self.polish_epochs)


class DecoderConfig(_Table):
    """Geometry of a Llama-style decoder trained from scratch; the embedding is the head too."""

    pieces: int = Field(ge=300, le=32768)
    hidden: int = Field(ge=64, multiple_of=64)
    mlp: int = Field(ge=64, multiple_of=64)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    context: int = Field(ge=64)
    rope_theta: float = Field(10_000.0, gt=0)
    repeat_utterance: bool = True


_CHANCES = (
    "swap_value",
    "swap_other_slot",
    "invent_value",
    "change_case",
    "change_edges",
    "quote_value",
    "resegment",
    "swap_opening",
)


class AugmentConfig(_Table):
    """Chances of each change to one training example; every change keeps the labels exact."""

    swap_value: float = Field(ge=0, le=1)
    swap_other_slot: float = Field(ge=0, le=1)
    invent_value: float = Field(ge=0, le=1)
    change_case: float = Field(ge=0, le=1)
    change_edges: float = Field(ge=0, le=1)
    quote_value: float = Field(ge=0, le=1)
    resegment: float = Field(ge=0, le=1)
    swap_opening: float = Field(0.0, ge=0, le=1)
    tag_loss: float = Field(0.0, ge=0)
    tag_layer: int = Field(4, ge=1)
    pointer_loss: float = Field(0.0, ge=0)
    pointer_layer: int = Field(5, ge=1)
    dropout: float = Field(ge=0, le=1)
    calm_epochs: int = Field(0, ge=0)
    """Last epochs before the polish; every chance and the dropout are scaled by `calm_factor`."""
    calm_factor: float = Field(1.0, ge=0, le=1)

    def calmed(self) -> AugmentConfig:
        """The same with every chance scaled."""
        names = (*_CHANCES, "dropout")
        return self.model_copy(update={n: getattr(self, n) * self.calm_factor for n in names})


class PolishConfig(_Table):
    """What is special about the polish of the assistant."""

    swap_opening: float = Field(0.0, ge=0, le=1)
    """In the polish only: the words before the first value come from a like utterance."""
    opinion_loss: float = Field(0.0, ge=0)
    """Weight of following, in the intent, what a cross-fitted n-gram model says of the text."""
    opinion_trust: float = Field(0.5, ge=0, le=1)
    """Share of that opinion in the target; the rest is the label."""
    opinion_folds: int = Field(5, ge=2, le=20)


class ClassifierTrain(_Table):
    """Fine-tune the source encoder as a `BertForSequenceClassification`."""

    task: Literal["classifier"]
    dataset: str
    max_tokens: int = Field(64, ge=8, le=512)
    freeze_word_embeddings: bool = True
    split: SplitConfig
    loop: LoopConfig


class AssistantTrain(_Table):
    """Train a decoder from scratch to answer an utterance with its intent and slots as JSON."""

    task: Literal["assistant"]
    dataset: str
    split: SplitConfig
    loop: LoopConfig
    decoder: DecoderConfig
    augment: AugmentConfig
    polish: PolishConfig = PolishConfig()


TrainConfig = Annotated[ClassifierTrain | AssistantTrain, Field(discriminator="task")]
_TRAIN: TypeAdapter[ClassifierTrain | AssistantTrain] = TypeAdapter(TrainConfig)


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the whole recipe as a mapping; `RecipeError` if it is missing or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"no recipe at {path}; name a recipe.toml under models/") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def load_train_config(path: Path) -> ClassifierTrain | AssistantTrain:
    """Return the checked `[train]` table of a recipe; unknown keys are refused."""
    table = read_recipe(path).get("train")
    if table is None:
        raise RecipeError(f"{path} has no [train] table: this model is taken as it is, not trained")
    try:
        return _TRAIN.validate_python(table)
    except ValidationError as error:
        raise RecipeError(f"{path}: [train] is wrong: {error}") from error


def shrink_for_smoke(config: ClassifierTrain | AssistantTrain) -> ClassifierTrain | AssistantTrain:
    """The same recipe made small enough to run in seconds on one thread."""
    loop = config.loop.model_copy(
        update={
            "epochs": 3,
            "polish_epochs": min(1, config.loop.polish_epochs),
            "batch_tokens": 512,
            "warmup_epochs": 0.2,
            "ema_steps": 0,
            "threads": 1,
            "precision": "fp32",
        }
    )
    update: dict[str, Any] = {"loop": loop}
    if isinstance(config, AssistantTrain):
        update["decoder"] = config.decoder.model_copy(
            update={"pieces": 600, "hidden": 64, "mlp": 128, "layers": 2, "heads": 2, "kv_heads": 2}
        )
    return config.model_copy(update=update)


def config_digest(config: BaseModel) -> str:
    """sha256 of the settings that a resumed run must share; its length may be changed."""
    loose = {"epochs", "decay_fraction", "final_lr_ratio", "threads", "eval_every"}
    loose |= {"polish_epochs", "polish_lr_ratio"}
    data = config.model_dump(mode="json", exclude={"polish"})
    data["loop"] = {key: value for key, value in data["loop"].items() if key not in loose}
    if "augment" in data:
        data["augment"] = {k: v for k, v in data["augment"].items() if not k.startswith("calm")}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
