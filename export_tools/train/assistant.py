"""Training of the assistant: a Llama-style decoder from scratch on utterances and their meaning.

Besides the answer, two helpers shape the body, so that tens of thousands of examples are enough and
millions are not needed: a tagging head on a middle layer says which slot each word of the last
reading belongs to (thrown away afterwards), and one attention head of a later layer is shown which
word an answer repeats. Both work on ordinary parts of an ordinary Llama.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig

from export_tools.train.assistant_format import (
    END,
    PAD,
    build_tokenizer,
    intent_token,
    save_tokenizer,
    space_twins,
)
from export_tools.train.assistant_rows import Row, RowMaker
from export_tools.train.augment import Augmenter, take_apart
from export_tools.train.data import Example, Split, length_batches
from export_tools.train.opinion import cross_fitted
from export_tools.train.recipe import AssistantTrain, AugmentConfig, LoopConfig
from export_tools.train.snips_score import Parse, SnipsScore, parse_answer, score_parses
from export_tools.train.trainee import Pass, Trainee

_IGNORE = -100


@dataclass(frozen=True, slots=True)
class AssistantBatch:
    """Right-padded rows [rows, longest]; targets are shifted, -100 where nothing is asked."""

    ids: Tensor
    answer: Tensor
    tags: Tensor
    sources: Tensor
    opens: Tensor
    """[rows], where each row predicts its intent."""
    opinions: Tensor
    """[rows, intents] or [rows, 0]: the soft targets there."""


class AssistantTask:
    """Everything the loop needs to train the assistant."""

    def __init__(self, config: AssistantTrain, split: Split, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.tokenizer = build_tokenizer(split.train, config.decoder.pieces)
        names = sorted({slot.slot for example in split.train for slot in example.slots})
        self.rows = RowMaker(self.tokenizer, names, config.decoder.repeat_utterance)
        self.templates = [take_apart(example) for example in split.train]
        self.augmenter = Augmenter(self.templates, config.augment)
        self.dev = split.dev
        torch.manual_seed(config.loop.seed)
        self.llama = _llama_config(
            config, self.tokenizer.get_vocab_size(), self._id(END), self._id(PAD)
        )
        twins = space_twins(self.tokenizer)
        self.intents = sorted({example.intent for example in split.train})
        self.intent_ids = torch.tensor([self._id(intent_token(i)) for i in self.intents]).to(device)
        self.opinions = self._opinions(split.train) if config.polish.opinion_loss else None
        self.trainee = Trainee(self.llama, config.augment, twins, 2 * len(names) + 1).to(device)
        self.model: nn.Module = self.trainee

    def _id(self, token: str) -> int:
        return int(self.tokenizer.token_to_id(token))

    def _opinions(self, examples: Sequence[Example]) -> Tensor:
        """Soft intents [examples, intents] for the polish; see `export_tools.train.opinion`."""
        labels = [self.intents.index(example.intent) for example in examples]
        count = len(self.intents)
        texts, polish = [example.text for example in examples], self.config.polish
        said = cross_fitted(texts, labels, count, polish.opinion_folds, self.config.loop.seed)
        given = functional.one_hot(torch.tensor(labels), count).float()
        return given.lerp(said, polish.opinion_trust)

    def parameter_groups(self, config: LoopConfig) -> list[dict[str, Any]]:
        """Matrices are decayed; norms, biases and the embedding are not."""
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            matrix = parameter.ndim > 1 and name != "pieces"
            (decayed if matrix else plain).append(parameter)
        return [
            {"params": decayed, "lr": config.lr, "weight_decay": config.weight_decay},
            {"params": plain, "lr": config.lr, "weight_decay": 0.0},
        ]

    def batches(self, epoch: int) -> Sequence[AssistantBatch]:
        """Every training utterance once, changed anew in each epoch."""
        rng = random.Random(f"{self.config.loop.seed}-{epoch}")
        chances = self._chances(epoch)
        opinions = self.opinions if epoch >= self.config.loop.main_epochs else None
        self.augmenter.config = chances
        self.trainee.rate = chances.dropout
        rows = []
        for number, template in enumerate(self.templates):
            again = rng if rng.random() < chances.resegment else None
            row = self.rows.make(self.augmenter.draw(template, rng), again)
            if len(row.ids) <= self.config.decoder.context:
                rows.append((row, number))
        order = rng.sample(range(len(rows)), len(rows))
        groups = length_batches(
            [len(row.ids) for row, _ in rows], self.config.loop.batch_tokens, order
        )
        rng.shuffle(groups)
        packed = []
        for group in groups:
            numbers = [rows[i][1] for i in group]
            said = torch.zeros(len(group), 0) if opinions is None else opinions[numbers]
            packed.append(self.pack([rows[i][0] for i in group], said))
        return packed

    def _chances(self, epoch: int) -> AugmentConfig:
        usual, main = self.config.augment, self.config.loop.main_epochs
        if epoch >= main:
            return usual.model_copy(update={"swap_opening": self.config.polish.swap_opening})
        return usual.calmed() if epoch >= main - usual.calm_epochs else usual

    def pack(self, rows: Sequence[Row], opinions: Tensor) -> AssistantBatch:
        """Pad rows to the longest and lay out the targets."""
        longest = max(len(row.ids) for row in rows)
        shape = (len(rows), longest)
        ids = torch.full(shape, self._id(PAD))
        answer, tags, sources = (torch.full(shape, _IGNORE) for _ in range(3))
        for number, row in enumerate(rows):
            length = len(row.ids)
            values = torch.tensor(row.ids)
            ids[number, :length] = values
            answer[number, row.prompt_len - 1 : length - 1] = values[row.prompt_len :]
            origin = torch.tensor(row.sources)
            origin[origin < 0] = _IGNORE
            sources[number, row.prompt_len - 1 : length - 1] = origin
            start = row.prompt_len - 1 - len(row.tags)
            tags[number, start : row.prompt_len - 1] = torch.tensor(row.tags, dtype=torch.long)
        opens = torch.tensor([row.prompt_len - 1 for row in rows])
        laid_out = (ids, answer, tags, sources, opens, opinions)
        return AssistantBatch(*(t.to(self.device) for t in laid_out))

    def loss(self, batch: AssistantBatch) -> Tensor:
        """Answer loss plus the weighted helpers."""
        found: Pass = self.trainee(batch.ids)
        weights = self.config.augment
        asked = batch.answer != _IGNORE
        logits = functional.linear(found.last[asked], found.table).float()
        smoothing = self.config.loop.label_smoothing
        total = functional.cross_entropy(logits, batch.answer[asked], label_smoothing=smoothing)
        if weights.tag_loss:
            tagged = batch.tags != _IGNORE
            tags = self.trainee.tagger(found.middle[tagged]).float()
            total = total + weights.tag_loss * functional.cross_entropy(tags, batch.tags[tagged])
        if weights.pointer_loss:
            copied = batch.sources != _IGNORE
            scores = found.pointer[copied].float()
            pointing = functional.cross_entropy(scores, batch.sources[copied])
            total = total + weights.pointer_loss * pointing
        if batch.opinions.shape[1]:
            states = found.last[torch.arange(len(batch.opens)), batch.opens]
            intents = functional.linear(states, found.table[self.intent_ids]).float()
            opinion = functional.cross_entropy(intents, batch.opinions)
            total = total + self.config.polish.opinion_loss * opinion
        return total

    def answer(self, texts: Sequence[str], limit: int = 128) -> list[str]:
        """Greedy answers, a few hundred at a time, sorted by length so that padding stays small."""
        answers = [""] * len(texts)
        prompts = [self.rows.prompt(text) for text in texts]
        for group in length_batches([len(p) for p in prompts], 16_384, range(len(prompts))):
            for index, content in zip(
                group, self._greedy([prompts[i] for i in group], limit), strict=True
            ):
                answers[index] = content
        return answers

    def _greedy(self, prompts: Sequence[list[int]], limit: int) -> list[str]:
        longest = max(map(len, prompts))
        pad, end = self._id(PAD), self._id(END)
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor(
            [[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.device
        )
        found = self.trainee.decoder.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=pad,
        )[:, longest:].tolist()
        cut = [row[: row.index(end)] if end in row else row for row in found]
        return [self.tokenizer.decode(row, skip_special_tokens=False) for row in cut]

    def score(self, examples: Sequence[Example]) -> SnipsScore:
        """Answer every example and score the answers."""
        truth = [Parse(e.intent, tuple((s.slot, s.text) for s in e.slots)) for e in examples]
        return score_parses(
            truth, [parse_answer(a) for a in self.answer([e.text for e in examples])]
        )

    def evaluate(self) -> dict[str, float]:
        """Figures on the dev split; exact matches choose, as the least noisy of them."""
        if not self.dev:
            return {"score": 0.0}
        self.trainee.settle()
        score = self.score(self.dev)
        return {
            "score": score.exact_match,
            "intent_accuracy": score.intent_accuracy,
            "mean_slot_f1": score.mean_slot_f1,
            "unreadable": score.unreadable,
        }

    def save(self, out: Path) -> None:
        """Write config.json, model.safetensors, the tokenizer and its chat template."""
        self.trainee.settle()
        self.trainee.decoder.save_pretrained(out, safe_serialization=True)
        decoder = self.config.decoder
        save_tokenizer(self.tokenizer, out, decoder.context, decoder.repeat_utterance)

    def load(self, out: Path) -> None:
        """Take the weights of the checkpoint in `out`; the training-only parts stay as they are."""
        kept = type(self.trainee.decoder).from_pretrained(out, dtype=torch.float32)
        self.trainee.decoder.load_state_dict(kept.state_dict())

    def parameter_count(self) -> int:
        """Parameters of the decoder; the embedding, tied to the head, counts once."""
        return sum(parameter.numel() for parameter in self.trainee.decoder.parameters())

    def report(self, examples: Sequence[Example]) -> dict[str, Any]:
        """All figures on some examples, slot by slot."""
        self.model.eval()
        return self.score(examples).summary()


def _llama_config(config: AssistantTrain, vocabulary: int, end: int, pad: int) -> LlamaConfig:
    decoder = config.decoder
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=decoder.hidden,
        intermediate_size=decoder.mlp,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        num_key_value_heads=decoder.kv_heads,
        max_position_embeddings=decoder.context,
        rope_theta=decoder.rope_theta,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        initializer_range=0.02,
    )
