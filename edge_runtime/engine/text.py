"""Tokens to text and back.

`Codec` wraps a `tokenizer.json` and a chat template. `TextStream` turns the tokens of one answer
into pieces that are safe to send: never half a character, never the beginning of a stop string
that may still complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
from tokenizers import Tokenizer

from edge_runtime.bundle.manifest import Manifest
from edge_runtime.errors import BundleError, UsageError

_REPLACEMENT = "\ufffd"
_MAX_PENDING = 16  # tokens that may wait for the rest of a character; none needs more than four
MAX_TEMPLATE_OUTPUT = 4 * 1024 * 1024  # characters a chat template may produce


class Codec:
    """A `TextCodec` over the files of one bundle. Safe from any thread."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Load tokenizer and template. Raises `BundleError` naming the file."""
        path = directory / manifest.tokenizer.file
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every bad file
            raise BundleError(str(path), f"not a tokenizer this build can read: {error}") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        added = self.tokenizer.get_added_tokens_decoder().items()
        self._special = frozenset(token for token, entry in added if entry.special)
        self._template = _load_template(directory, manifest)
        self._tokens = (
            {}
            if manifest.chat_template is None
            else {
                "bos_token": manifest.chat_template.bos_token,
                "eos_token": manifest.chat_template.eos_token,
            }
        )

    @property
    def has_chat_template(self) -> bool:
        """True when the bundle brought one."""
        return self._template is not None

    @property
    def vocab_size(self) -> int:
        """Ids the tokenizer knows, added tokens included."""
        size: int = self.tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `tokens`."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)
        return text

    def is_silent(self, token: int) -> bool:
        """True for tokens that never show in a text: special ones, and ids without a token."""
        return token in self._special or self.tokenizer.id_to_token(token) is None

    def apply_chat_template(self, messages: Sequence[Mapping[str, object]]) -> list[int]:
        """Tokens of a chat; see `TextCodec.apply_chat_template`."""
        if self._template is None:
            raise UsageError(
                "this model has no chat template; use /v1/completions", param="messages"
            )
        pieces, chars = [], 0
        try:
            for piece in self._template.generate(
                messages=list(messages), add_generation_prompt=True, **self._tokens
            ):
                pieces.append(piece)
                chars += len(piece)
                if chars > MAX_TEMPLATE_OUTPUT:
                    raise UsageError("the chat is too long; shorten it", param="messages")
        except UsageError:
            raise
        except Exception as error:  # contents it did not expect make a template raise anything
            raise UsageError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        return self.encode("".join(pieces), add_special_tokens=False)


class TextStream:
    """The text of one answer, token by token.

    `push` returns the text that became certain. After `stopped` is true a stop string was found
    and everything from it on was dropped. `finish` returns what was held back.
    """

    def __init__(self, codec: Codec, stop: Sequence[str] = ()) -> None:
        self._codec = codec
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        # A token's text can depend on the one before (leading spaces), so the last ones whose
        # text was released stay in front of those that wait.
        self._window: list[int] = []
        self._released = 0
        self._released_text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; returns text that is safe to send, often empty."""
        if self._codec.is_silent(token):
            return ""
        self._window.append(token)
        text = self._codec.decode(self._window)
        incomplete = text.endswith(_REPLACEMENT)
        if incomplete and len(self._window) - self._released <= _MAX_PENDING:
            return ""
        if len(text) <= len(self._released_text):
            return ""
        piece = text[len(self._released_text) :]
        self._window = self._window[self._released :]
        self._released = len(self._window)
        self._released_text = self._codec.decode(self._window)
        return self._release(piece)

    def finish(self) -> str:
        """The answer ended without a stop string: everything that was held back."""
        tail = self._codec.decode(self._window)[len(self._released_text) :]
        self._released_text += tail
        text = self._release(tail)
        if self.stopped:
            return text
        held, self._held = self._held, ""
        return text + held

    def _release(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        if not self._stop:
            return text
        # The one that is complete first wins, however the text was cut into pieces.
        ends = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            self._held = ""
            return text[: min(ends)[1]]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :] if keep else ""
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def _load_template(directory: Path, manifest: Manifest) -> jinja2.Template | None:
    if manifest.chat_template is None:
        return None
    path = directory / manifest.chat_template.file
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, jinja2.TemplateError) as error:
        raise BundleError(str(path), f"not a usable chat template: {error}") from error


def _refuse(message: Any) -> None:
    raise jinja2.TemplateError(str(message))
