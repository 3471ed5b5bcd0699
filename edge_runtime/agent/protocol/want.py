"""`want`: what the control host wants a box to serve. Retained, signed, at most 8 KB.

Rules
- One document a box holds everything that is wanted of it, so a box that slept through ten of
  them needs only the last.
- Generations come from one counter a box and rise strictly. An item carries the generation in
  which it last changed; the document's own is the highest of them. A rollback or a cancel is a
  new generation with another digest.
- `release_floor` is about safety and separate from versions: a rollback for quality goes below
  the running release, never below the floor.
- Times are UTC epoch seconds. A retained document may be weeks old: `issued_s` says only that it
  is at least that late.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from edge_runtime.agent.protocol.document import (
    Count,
    EpochS,
    Generation,
    SignedDocument,
    SignedPart,
    Token,
    Url,
)
from edge_runtime.agent.protocol.states import ItemKind
from edge_runtime.agent.protocol.topics import MAX_BYTES, Channel, Principal
from edge_runtime.bundle.manifest import Name, Sha256

MAX_ITEMS = 8
MINUTES_A_DAY = 24 * 60


class Window(SignedPart):
    """A weekly time in which a box may activate, on the clock `utc_offset_min` from UTC.

    `days` 0 is Monday; a window may run past midnight.
    """

    days: tuple[Annotated[int, Field(ge=0, le=6)], ...] = Field(
        default=(0, 1, 2, 3, 4, 5, 6), min_length=1, max_length=7
    )
    start_min: int = Field(ge=0, lt=MINUTES_A_DAY)
    length_min: int = Field(ge=1, le=MINUTES_A_DAY)
    utc_offset_min: int = Field(default=0, ge=-MINUTES_A_DAY, le=MINUTES_A_DAY)

    def wait_s(self, now_s: int) -> int:
        """Seconds from `now_s` until the window is open; 0 while it is."""
        week_s = 7 * MINUTES_A_DAY * 60
        # 1970-01-01 was a Thursday.
        at_s = (now_s + self.utc_offset_min * 60 + 3 * MINUTES_A_DAY * 60) % week_s
        waits = []
        for day in self.days:
            opens_s = (day * MINUTES_A_DAY + self.start_min) * 60
            since_s = (at_s - opens_s) % week_s
            waits.append(0 if since_s < self.length_min * 60 else week_s - since_s)
        return min(waits)


class ProbationRules(SignedPart):
    """When a box takes a new bundle back by itself, and for how long it watches.

    Crashes are ends of the daemon or the engine that nobody asked for. Shares are judged only
    after `min_requests`. `max_escalation_shift` is against the bundle before, in absolute share.
    """

    length_s: int = Field(default=900, ge=0, le=7 * 86_400)
    max_crashes: int = Field(default=1, ge=0, le=100)
    min_requests: int = Field(default=50, ge=1, le=1_000_000)
    max_error_share: float = Field(default=0.05, ge=0, le=1)
    max_escalation_shift: float = Field(default=0.2, ge=0, le=1)


class WantItem(SignedPart):
    """One wanted thing: digest `digest` for the name `name`.

    For `kind` bundle, `digest` is a bundle digest; for settings and daemon releases the sha256
    of the signed document or file. `bytes_full` are all bytes of it; `bytes_delta` those a delta
    from `delta_base` would take. `rate_bytes_s` None leaves the pace to the box's settings.
    `delta_fallback`: what to do where no delta fits.
    """

    kind: ItemKind
    name: Name
    generation: Generation
    rollout: Token
    digest: Sha256
    release: int = Field(ge=1)
    release_floor: int = Field(ge=1)
    bytes_full: Count
    delta_base: Sha256 | None = None
    bytes_delta: Count | None = None
    delta_fallback: Literal["full", "fail", "wait"] = "full"
    rate_bytes_s: int | None = Field(default=None, ge=1024, le=1 << 34)
    metered: Literal["allow", "defer"] = "defer"
    windows: tuple[Window, ...] = Field(default=(), max_length=4)
    not_before_s: EpochS | None = None
    deadline_s: EpochS | None = None
    probation: ProbationRules = ProbationRules()

    @property
    def key(self) -> str:
        """`<kind>/<name>`: what a box keeps one record of."""
        return f"{self.kind}/{self.name}"


class Want(SignedDocument):
    """The document; see the module. `sources` are base URLs that serve `/v1/blob/...`."""

    max_bytes: ClassVar[int] = MAX_BYTES[Channel.WANT]
    payload_type: ClassVar[str] = "application/vnd.edge-runtime.want.v1+json"

    schema_: Literal["edge-runtime/want/1"] = Field("edge-runtime/want/1", alias="schema")
    principal: Principal
    generation: Generation
    issued_s: EpochS
    sources: tuple[Url, ...] = Field(default=(), max_length=8)
    items: tuple[WantItem, ...] = Field(default=(), max_length=MAX_ITEMS)

    @model_validator(mode="after")
    def _one_generation_each(self) -> Self:
        keys = [item.key for item in self.items]
        if len(set(keys)) != len(keys):
            raise ValueError("something is wanted twice")
        if any(item.generation > self.generation for item in self.items):
            raise ValueError("an item's generation is above the document's")
        return self
