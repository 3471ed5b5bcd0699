"""What the assistant reads and writes, and the tokenizer made for it.

Rules
- The answer is exactly `json.dumps({"intent": ..., "slots": [...]}, ensure_ascii=False)`, cut into
  few tokens: the fixed pieces of the JSON are single added tokens, so an answer is hardly longer
  than the words it repeats.
- A word is cut the same way wherever it stands. Ordinary BPE cuts ` burke` in the utterance and
  `burke` at the start of a JSON string into unrelated tokens, so that copying has to be learnt word
  by word. Here the space joins the first piece of a finished cut and nothing else: every piece `p`
  has a twin ` p`, and the two cuts differ in that twin alone. Training ties the twins' embeddings
  to each other (`space_twins`).
- Nothing is lost: no normaliser, bytes as fallback; decode(encode(text)) == text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from export_tools.train.data import Example

PAD, END, USER, AGAIN, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|again|>", "<|assistant|>"
SPECIAL = (PAD, END, USER, AGAIN, ASSISTANT)
SPACE = "Ġ"
"""How byte-level BPE writes a space."""
NEXT_SLOT, LAST_SLOT, NO_SLOTS = '"}, ', '"}]}', "]}"

_TEMPLATE = (
    "{%- set last = messages[-1] -%}"
    "{%- if last['role'] != 'user' -%}"
    "{{- raise_exception('the last message must be the user utterance') -}}{%- endif -%}"
    "{%- for message in messages -%}{%- if message['role'] not in ['user', 'assistant'] -%}"
    "{{- raise_exception('this model takes no system or tool messages: send the utterance alone')"
    " -}}{%- endif -%}{%- endfor -%}"
    "{{- '<|user|>' + last['content'] -}}AGAIN"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def intent_token(intent: str) -> str:
    """The token that opens an answer."""
    return f'{{"intent": {json.dumps(intent)}, "slots": ['


def slot_token(slot: str) -> str:
    """The token that opens one value."""
    return f'{{"slot": {json.dumps(slot)}, "text": "'


def escape(value: str) -> str:
    """A value as it stands between the quotes of a JSON string."""
    return json.dumps(value, ensure_ascii=False)[1:-1]


def answer_parts(intent: str, slots: Sequence[tuple[str, str]]) -> list[str]:
    """The answer cut where the tokenizer cuts it; joined, it is the JSON text itself."""
    parts = [intent_token(intent)]
    if not slots:
        return [*parts, NO_SLOTS]
    for number, (slot, value) in enumerate(slots):
        close = LAST_SLOT if number + 1 == len(slots) else NEXT_SLOT
        parts += [slot_token(slot), escape(value), close]
    return parts


def chat_template(repeat_utterance: bool) -> str:
    """Jinja template of the one-message chat; older turns are not read."""
    again = "{{- '<|again|>' + last['content'] -}}" if repeat_utterance else ""
    return _TEMPLATE.replace("AGAIN", again)


def build_tokenizer(examples: Sequence[Example], pieces: int) -> Tokenizer:
    """Train the byte-level BPE on the utterances' words, twin it, add the fixed parts of answers.

    `pieces` counts the learnt pieces with the 256 bytes, before twinning. Deterministic.
    """
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\p{L}\p{N}]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words.train_from_iterator((example.text for example in examples), trainer)
    tokenizer = _with_twins(json.loads(words.to_str())["model"])
    intents = sorted({example.intent for example in examples})
    names = sorted({slot.slot for example in examples for slot in example.slots})
    fixed = [NEXT_SLOT, LAST_SLOT, NO_SLOTS, *map(intent_token, intents), *map(slot_token, names)]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in fixed])
    return tokenizer


def _with_twins(model: dict[str, Any]) -> Tokenizer:
    """The same BPE with a twin for every piece; the twins' merges come last, so they rank last."""
    vocabulary: dict[str, int] = dict(model["vocab"])
    merges = [tuple(pair) for pair in model["merges"]]
    for piece in sorted(model["vocab"], key=model["vocab"].__getitem__):
        if piece != SPACE:
            vocabulary[SPACE + piece] = len(vocabulary)
            merges.append((SPACE, piece))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    pattern = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def space_twins(tokenizer: Tokenizer) -> list[tuple[int, bool]]:
    """For every id, the id whose embedding it shares and whether the space's is added to that."""
    vocabulary = tokenizer.get_vocab()
    plain = set(tokenizer.get_added_tokens_decoder())
    rows = []
    for token, number in sorted(vocabulary.items(), key=lambda item: item[1]):
        twin = number not in plain and token[0] == SPACE and token != SPACE
        rows.append((vocabulary[token[1:]] if twin else number, twin))
    return rows


def save_tokenizer(tokenizer: Tokenizer, out: Path, context: int, repeat_utterance: bool) -> None:
    """Write tokenizer.json and tokenizer_config.json with the chat template inside."""
    from transformers import PreTrainedTokenizerFast

    out.mkdir(parents=True, exist_ok=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, AGAIN, ASSISTANT],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=chat_template(repeat_utterance),
    )
    fast.save_pretrained(out, save_jinja_files=False)
