"""What a checkpoint's small files say about the model, for the bundle's manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.bundle.manifest import ChatTemplate, Tokenizer
from edge_runtime.errors import BundleError

TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def read_optional(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one when the file is absent. Raises `BundleError`."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise BundleError(path.name, f"is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(path.name, "is no JSON object")
    return document


class CheckpointMetadata:
    """Tokenizer, chat template and generation defaults of one checkpoint directory."""

    def __init__(self, directory: Path) -> None:
        if not (directory / TOKENIZER_FILE).is_file():
            raise BundleError(
                str(directory),
                f"has no {TOKENIZER_FILE}; save the tokenizer in its fast form beside the weights",
            )
        self.directory = directory
        self._config = read_optional(directory / "config.json")
        self._tokenizer_config = read_optional(directory / "tokenizer_config.json")
        self._generation = read_optional(directory / "generation_config.json")
        self._ids = _token_ids(read_optional(directory / TOKENIZER_FILE))

    @property
    def bos_token_id(self) -> int | None:
        """The token that starts a text, when the model wants one."""
        return self._special("bos")

    @property
    def pad_token_id(self) -> int | None:
        """The token that fills rows of a padded batch."""
        return self._special("pad")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer: of the generation config, the config, the tokenizer."""
        found: list[int] = []
        for value in (self._generation.get("eos_token_id"), self._config.get("eos_token_id")):
            found += [value] if isinstance(value, int) else list(value or [])
        text = self._token_text("eos_token")
        if text in self._ids:
            found.append(self._ids[text])
        return tuple(dict.fromkeys(found))

    def copy_tokenizer(self, out: Path) -> Tokenizer:
        """Copy `tokenizer.json` into the bundle; returns the manifest's section."""
        shutil.copyfile(self.directory / TOKENIZER_FILE, out / TOKENIZER_FILE)
        return Tokenizer(
            file=TOKENIZER_FILE,
            bos_token_id=self.bos_token_id,
            eos_token_ids=self.eos_token_ids,
            pad_token_id=self.pad_token_id,
        )

    def copy_template(self, out: Path) -> ChatTemplate | None:
        """Write the chat template into the bundle when there is one."""
        template = self._template()
        if template is None:
            return None
        (out / TEMPLATE_FILE).write_text(template, "utf-8")
        return ChatTemplate(
            file=TEMPLATE_FILE,
            bos_token=self._token_text("bos_token") or "",
            eos_token=self._token_text("eos_token") or "",
        )

    def sampling_defaults(self) -> dict[str, float]:
        """Defaults the model's authors chose; temperature 0 when they chose greedy decoding."""
        if self._generation.get("do_sample") is False:
            return {"temperature": 0.0}
        stated = {name: self._generation.get(name) for name in _SAMPLING}
        return {
            name: float(value)
            for name, value in stated.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }

    def _special(self, kind: str) -> int | None:
        """The id of the bos or pad token. A token set to null on purpose stays off."""
        name = f"{kind}_token"
        if name in self._tokenizer_config:
            text = self._token_text(name)
            return None if text is None else self._ids.get(text)
        value = self._config.get(f"{name}_id")
        return value if isinstance(value, int) else None

    def _token_text(self, name: str) -> str | None:
        value = self._tokenizer_config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        return value if isinstance(value, str) else None

    def _template(self) -> str | None:
        own_file = self.directory / TEMPLATE_FILE
        if own_file.is_file():
            return own_file.read_text("utf-8")
        value = self._tokenizer_config.get("chat_template")
        if isinstance(value, list):
            named = {item.get("name"): item.get("template") for item in value}
            value = named.get("default")
        return value if isinstance(value, str) else None


def _token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Token text to id of a `tokenizer.json`, added tokens last."""
    vocab = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(vocab, list):  # Unigram: pairs of text and score
        ids = {str(entry[0]): index for index, entry in enumerate(vocab)}
    else:
        ids = {str(text): int(index) for text, index in vocab.items()}
    for token in tokenizer.get("added_tokens") or []:
        ids[str(token["content"])] = int(token["id"])
    return ids
