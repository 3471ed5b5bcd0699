"""Fine-tuning of a BERT-family encoder into a classifier of utterances."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from export_tools.train.data import Example, Split, length_batches
from export_tools.train.recipe import ClassifierTrain, LoopConfig, RecipeError


@dataclass(frozen=True, slots=True)
class ClassifierBatch:
    """Padded rows: ids and mask [rows, longest], labels [rows].

    `confidence` [rows] is None where every label is certain.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    confidence: Tensor | None = None


def soft_targets(labels: Tensor, confidence: Tensor, count: int) -> Tensor:
    """Rows [rows, count] that sum to 1: a label's confidence, and the rest over the others."""
    rest = (1 - confidence) / max(1, count - 1)
    rows = rest[:, None].repeat(1, count)
    return rows.scatter_(1, labels[:, None], confidence[:, None])


class ClassifierTask:
    """Encoder + pooler + linear head, all standard, so that any exporter of BERT can take it.

    Out-of-scope rows are not trained on: how sure the model is of its best label has to tell them
    apart, which label smoothing keeps honest.
    """

    def __init__(
        self, config: ClassifierTrain, base: Path, split: Split, device: torch.device
    ) -> None:
        self.config = config
        self.labels = sorted({example.intent for example in split.train})
        index = {label: number for number, label in enumerate(self.labels)}
        unknown = {example.intent for example in split.dev} - set(index)
        if unknown:
            raise RecipeError(
                f"intents only in the dev split: {sorted(unknown)}; change split.salt"
            )
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        bert = BertConfig.from_pretrained(
            base, num_labels=len(self.labels), id2label=dict(enumerate(self.labels)), label2id=index
        )
        torch.manual_seed(config.loop.seed)
        self.model: nn.Module = BertForSequenceClassification.from_pretrained(
            base, config=bert, dtype=torch.float32
        ).to(device)
        if config.freeze_word_embeddings:
            self.model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
        self.device = device
        self.train_rows = self._encode(split.train)
        self.dev_rows = self._encode(split.dev)
        self.train_labels = [index[example.intent] for example in split.train]
        self.dev_labels = [index[example.intent] for example in split.dev]
        self.confidence = [example.confidence for example in split.train]
        self.soft = any(value < 1 for value in self.confidence)

    def _encode(self, examples: Sequence[Example]) -> list[list[int]]:
        if not examples:
            return []
        texts = [example.text for example in examples]
        limit = self.config.max_tokens
        rows: list[list[int]] = self.tokenizer(texts, truncation=True, max_length=limit)[
            "input_ids"
        ]
        return rows

    def _pack(self, rows: list[list[int]], labels: list[int], picked: list[int]) -> ClassifierBatch:
        longest = max(len(rows[i]) for i in picked)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([rows[i] + [pad] * (longest - len(rows[i])) for i in picked])
        mask = torch.tensor([[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in picked])
        truth = torch.tensor([labels[i] for i in picked])
        return ClassifierBatch(ids.to(self.device), mask.to(self.device), truth.to(self.device))

    def parameter_groups(self, config: LoopConfig) -> list[dict[str, Any]]:
        """The fresh head may learn faster than the encoder; vectors are not decayed."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                key = (name.startswith("classifier"), parameter.ndim > 1)
                groups.setdefault(key, []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": (config.head_lr or config.lr) if head else config.lr,
                "weight_decay": config.weight_decay if matrix else 0.0,
            }
            for (head, matrix), parameters in groups.items()
        ]

    def batches(self, epoch: int) -> Sequence[ClassifierBatch]:
        """Rows of like length together, batches in random order."""
        rng = random.Random(f"{self.config.loop.seed}-{epoch}")
        order = rng.sample(range(len(self.train_rows)), len(self.train_rows))
        lengths = [len(row) for row in self.train_rows]
        groups = length_batches(lengths, self.config.loop.batch_tokens, order)
        rng.shuffle(groups)
        return [self._train_batch(group) for group in groups]

    def _train_batch(self, group: list[int]) -> ClassifierBatch:
        batch = self._pack(self.train_rows, self.train_labels, group)
        if not self.soft:
            return batch
        confidence = torch.tensor([self.confidence[i] for i in group], device=self.device)
        return replace(batch, confidence=confidence)

    def _logits(self, batch: ClassifierBatch) -> Tensor:
        logits: Tensor = self.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        return logits.float()

    def loss(self, batch: ClassifierBatch) -> Tensor:
        """Cross entropy with the recipe's label smoothing; what a label is not sure of, the other
        labels share.
        """
        smoothing = self.config.loop.label_smoothing
        target = batch.labels
        if batch.confidence is not None:
            target = soft_targets(batch.labels, batch.confidence, len(self.labels))
        return nn.functional.cross_entropy(self._logits(batch), target, label_smoothing=smoothing)

    def predict(self, rows: list[list[int]], labels: list[int]) -> list[int]:
        """Best label of each row, in the order given."""
        best = [0] * len(rows)
        for group in length_batches([len(row) for row in rows], 4096, range(len(rows))):
            found = self._logits(self._pack(rows, labels, group)).argmax(-1).tolist()
            for index, label in zip(group, found, strict=True):
                best[index] = label
        return best

    def accuracy(self, examples: Sequence[Example]) -> float:
        """Share of the in-scope examples whose best label is right."""
        index = {label: number for number, label in enumerate(self.labels)}
        known = [example for example in examples if example.intent in index]
        truth = [index[example.intent] for example in known]
        found = self.predict(self._encode(known), truth)
        return sum(a == b for a, b in zip(found, truth, strict=True)) / max(1, len(truth))

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the dev split."""
        found = self.predict(self.dev_rows, self.dev_labels)
        right = sum(a == b for a, b in zip(found, self.dev_labels, strict=True))
        accuracy = right / max(1, len(found))
        return {"score": accuracy, "accuracy": accuracy}

    def save(self, out: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer's files."""
        self.model.save_pretrained(out, safe_serialization=True)
        self.tokenizer.save_pretrained(out)

    def load(self, out: Path) -> None:
        """Take the weights of the checkpoint in `out`."""
        kept = BertForSequenceClassification.from_pretrained(out, dtype=torch.float32)
        self.model.load_state_dict(kept.state_dict())

    def parameter_count(self) -> int:
        """Parameters of encoder, pooler and head."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def report(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Figures on some examples."""
        with torch.inference_mode():
            self.model.eval()
            return {"examples": len(examples), "accuracy": self.accuracy(examples)}
