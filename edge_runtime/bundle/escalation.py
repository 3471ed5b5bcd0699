r"""The manifest's `escalation` section: how a local request becomes a frontier chat and comes back.

Rules
- `{labels}` in the prompt becomes the bundle's labels, one a line; `{input}` in `user` becomes
  the text to classify. Nothing else is replaced, and neither is read as a format.
- An answer outside the label set is no answer. Out of scope is only what `out_of_scope` maps.
- The section is data of the bundle: it is covered by the bundle's digest and signature.

Example (a recipe's table)::

    [escalation]
    prompt = "Name the intent of the user's request. The intents:\n{labels}\n..."
    parser = "label-json/1"
    answer_schema = { type = "object", ... }
    out_of_scope = { answers = ["none"], label = "oos" }
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_PROMPT_CHARS = 64 * 1024


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OutOfScope(_Section):
    """Which answers mean "none of these", and the label that callers get for them."""

    answers: tuple[str, ...] = Field(min_length=1, max_length=16)
    label: str = Field(min_length=1, max_length=128)


class Escalation(_Section):
    """See the module. Classifiers need a `label-...` parser, generators `text/1` or `json/1`.

    `prompt` is the system message; empty sends none. `answers` maps what a frontier may say
    instead of a label to the label. `answer_schema` is sent as `response_format` and, for
    `json/1`, the answer is held against it.
    """

    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARS)
    user: str = Field(default="{input}", min_length=1, max_length=MAX_PROMPT_CHARS)
    parser: Literal["label-json/1", "label-text/1", "json/1", "text/1"]
    answer_schema: dict[str, Any] | None = None
    answers: dict[str, str] = Field(default_factory=dict)
    out_of_scope: OutOfScope | None = None
    max_output_tokens: int | None = Field(default=None, gt=0)

    @property
    def labels(self) -> bool:
        """Whether answers are labels."""
        return self.parser.startswith("label-")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.labels and "{input}" not in self.user:
            raise ValueError("user must hold {input}: the text to classify")
        if not self.labels and (self.answers or self.out_of_scope is not None):
            raise ValueError(f"{self.parser} has no labels to map")
        return self
