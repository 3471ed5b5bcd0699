"""Settings of frontiers and of what is captured from them.

Rules
- A key never stands in the settings: they name the environment variable or the file it is in.
- Off this machine a frontier is reached by https only.
- Nothing is captured from a frontier whose terms do not allow training on its answers.
"""

from __future__ import annotations

import ipaddress
from typing import Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator, model_validator

from edge_runtime.config_section import HomePath, Section


class TrimSettings(Section):
    """What may be cut from a prompt before it is sent; everything is off by default."""

    kept_prefix_messages: int = Field(
        0,
        ge=0,
        le=1024,
        description="Leading messages that stay as they are, byte for byte: the part of the "
        "prompt that the frontier caches.",
    )
    kept_prefix_chars: int = Field(
        0,
        ge=0,
        le=1 << 24,
        description="Messages that begin within this many leading characters stay as well.",
    )
    keep_turns: int = Field(
        0,
        ge=0,
        le=1024,
        description="Newest turns of a conversation that are sent, each with its tool calls; "
        "0 sends all. System messages always stay.",
    )
    whitespace: bool = Field(
        default=False,
        description="Take out doubled blanks, trailing blanks and doubled empty lines, outside "
        "fenced code.",
    )
    duplicate_context: bool = Field(
        default=False,
        description="Leave out a paragraph that an earlier message has word for word.",
    )
    duplicate_min_chars: int = Field(
        200, ge=20, le=1 << 20, description="Shortest paragraph that counts as duplicate context."
    )

    @property
    def active(self) -> bool:
        """True when anything is ever cut."""
        return bool(self.keep_turns or self.whitespace or self.duplicate_context)


class BreakerSettings(Section):
    """When a frontier that fails is left alone, and for how long."""

    failures: int = Field(
        5, ge=1, le=1000, description="Failures in a row after which no call is made for a while."
    )
    open_s: float = Field(
        30.0, gt=0, le=3600, description="First wait before a single call may try again."
    )
    max_open_s: float = Field(
        300.0, gt=0, le=86_400, description="Longest wait; each failed try doubles it up to here."
    )
    probe_every_s: float = Field(
        2.0,
        gt=0,
        le=3600,
        description="Wait between such tries while no other frontier could answer instead.",
    )
    default_pause_s: float = Field(
        2.0, gt=0, le=3600, description="Pause after a 429 that does not say how long."
    )
    max_pause_s: float = Field(
        600.0, gt=0, le=86_400, description="Longest pause a `Retry-After` may ask for."
    )
    out_of_credit_s: float = Field(
        900.0,
        gt=0,
        le=7 * 86_400,
        description="How long a frontier is left alone that says our credit is used up.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_open_s < self.open_s:
            raise ValueError("max_open_s must not be less than open_s")
        return self


class FrontierSettings(Section):
    """One central endpoint that speaks OpenAI's chat API: a table `[frontiers.NAME]`."""

    base_url: str = Field(
        description="Where it is, up to and with `/v1`; `https` unless it is on this machine."
    )
    model: str = Field(min_length=1, max_length=200, description="The model to ask it for.")
    api_key_env: str | None = Field(
        None, max_length=200, description="Environment variable that holds its API key."
    )
    api_key_file: HomePath | None = Field(
        None, description="File that holds its API key; let only its owner read it."
    )
    ca_file: HomePath | None = Field(
        None, description="Certificates (PEM) to trust instead of the system's."
    )
    price: str | None = Field(
        None, max_length=200, description="Key in the price list; left out, the model's name."
    )
    order: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Place in the order of asking, lowest first; those without one come after, "
        "cheapest first.",
    )
    output_limit_field: Literal["max_completion_tokens", "max_tokens"] = Field(
        "max_completion_tokens",
        description="Field by which it takes the longest answer, in tokens.",
    )
    template_tokens: int = Field(
        64,
        ge=0,
        le=65_536,
        description="Tokens its own chat template may add to a prompt, in the worst case.",
    )
    connect_timeout_s: float = Field(
        5.0, gt=0, le=300, description="Longest wait for a connection, name and TLS included."
    )
    first_token_timeout_s: float = Field(
        20.0, gt=0, le=3600, description="Longest wait for a stream's first token."
    )
    total_timeout_s: float = Field(
        60.0, gt=0, le=7200, description="Longest a whole answer may take."
    )
    settle_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="How long the answer of a call that was given up is still read in the "
        "background, to book what it cost instead of its worst case; 0 hangs up at once.",
    )
    usage_url: str | None = Field(
        None,
        max_length=2000,
        description="Address that tells what one call cost, asked where no bill came: `{id}` "
        "stands for the frontier's id of the call, `{call}` for ours, which it got as "
        "`X-Client-Request-Id`. Such as `https://openrouter.ai/api/v1/generation?id={id}`.",
    )
    deadline_failure_s: float = Field(
        10.0,
        gt=0,
        le=7200,
        description="A caller's deadline that ends a call after at least this long counts as a "
        "failure of the frontier; a shorter one says nothing about it.",
    )
    max_tries: int = Field(
        3, ge=1, le=20, description="Tries of one request at this frontier, the first included."
    )
    backoff_s: float = Field(
        0.25, gt=0, le=60, description="Most that is waited before the second try; doubles."
    )
    max_backoff_s: float = Field(
        5.0, gt=0, le=600, description="Most that is ever waited between two tries."
    )
    max_concurrent_calls: int = Field(
        32, ge=1, le=4096, description="Calls in progress at the same time."
    )
    max_queue_s: float = Field(
        2.0, ge=0, le=600, description="Longest wait for one of those calls to end."
    )
    max_reply_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, le=1 << 30, description="Largest answer that is read."
    )
    max_event_bytes: int = Field(
        1024 * 1024, ge=1024, le=1 << 28, description="Largest event of a stream."
    )
    training_allowed: bool = Field(
        description="Whether its terms let its answers train a model: nothing of it is captured "
        "otherwise. Has no default, so that somebody looks it up."
    )
    breaker: BreakerSettings = Field(
        default_factory=BreakerSettings, description="When it is left alone."
    )
    trim: TrimSettings = Field(default_factory=TrimSettings, description="What is cut.")

    @property
    def price_key(self) -> str:
        """The key of its price in the list."""
        return self.price or self.model

    @field_validator("base_url")
    @classmethod
    def _safe_address(cls, value: str) -> str:
        if _safe(value).query:
            raise ValueError("must hold no query")
        return value.rstrip("/")

    @field_validator("usage_url")
    @classmethod
    def _names_a_call(cls, value: str | None) -> str | None:
        if value is None:
            return None
        before = value.split("{", 1)[0]
        if "{id}" not in value and "{call}" not in value:
            raise ValueError("must hold {id} or {call}, which stand for the call asked about")
        if urlsplit(before).netloc != _safe(value).netloc:
            raise ValueError("must name its host in full")
        return value

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key_env and self.api_key_file:
            raise ValueError("give api_key_env or api_key_file, not both")
        if self.max_backoff_s < self.backoff_s:
            raise ValueError("max_backoff_s must not be less than backoff_s")
        if self.usage_url and urlsplit(self.usage_url).netloc != urlsplit(self.base_url).netloc:
            raise ValueError("usage_url must be on base_url's host: it is sent the same API key")
        return self


class CaptureSettings(Section):
    """Keeping frontiers' answers, redacted and encrypted, to train a local model on later."""

    enabled: bool = Field(
        default=False,
        description="Capture answers of frontiers that have `training_allowed`.",
    )
    directory: HomePath | None = Field(None, description="Folder of the encrypted segments.")
    key_file: HomePath | None = Field(
        None, description="File with the key (64 hex digits); whoever trains on them needs it too."
    )
    max_segment_bytes: int = Field(
        16 * 1024 * 1024, ge=4096, le=1 << 30, description="A larger segment is closed."
    )
    max_total_bytes: int = Field(
        1 << 30, ge=8192, le=1 << 42, description="Past this the oldest segments are deleted."
    )
    max_record_bytes: int = Field(
        256 * 1024, ge=1024, le=16 * 1024 * 1024, description="Larger exchanges are left out."
    )
    max_waiting: int = Field(
        256, ge=1, le=65_536, description="Exchanges that may wait for the disk; more are dropped."
    )
    keep_days: int = Field(90, ge=1, le=3650, description="Segments older than this are deleted.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.enabled and (self.directory is None or self.key_file is None):
            raise ValueError("capture needs a directory and a key_file")
        if self.max_total_bytes < 2 * self.max_segment_bytes:
            raise ValueError("max_total_bytes must hold at least two segments")
        if self.max_segment_bytes < self.max_record_bytes:
            raise ValueError("max_segment_bytes must hold the largest record")
        return self


def _safe(value: str) -> SplitResult:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must be an address such as https://frontier.example/v1")
    if url.username or url.password or url.fragment:
        raise ValueError("must hold no user, password or fragment")
    if url.scheme == "http" and not _on_loopback(url.hostname):
        raise ValueError(
            "must be https: prompts and the API key would cross the network in the clear"
        )
    return url


def _on_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
