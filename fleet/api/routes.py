"""What a route is: its path, who may call it, what goes in and what comes out.

Rules
- Routes are data. The server (`app`) and the OpenAPI document (`openapi`) are made from the same
  table, so neither can say what the other does not do.
- A handler takes a `Call` and gives a model; it knows nothing of HTTP. Everything it is given was
  checked: who calls, the query, the body.
- Every route that changes something is audited in the transaction of the change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from edge_runtime.errors import UsageError
from fleet.registry.audit import Actor
from fleet.registry.tokens import Permission

if TYPE_CHECKING:
    from fleet.api.services import Services

Method = Literal["GET", "POST", "PUT", "DELETE"]
T = TypeVar("T")


class Model(BaseModel):
    """A body or an answer; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class NoQuery(Model):
    """No query parameters."""


class PageQuery(Model):
    """Which page of a list."""

    limit: int = Field(100, ge=1, le=5000, description="Most items of the page.")
    after: str | None = Field(
        None, max_length=200, description="`next` of the page before; none for the first."
    )


class Page(BaseModel, Generic[T]):
    """A part of a list."""

    items: list[T]
    next: str | None = Field(None, description="Give it as `after` for the next page.")


class Done(Model):
    """It is done."""

    done: Literal[True] = True


@dataclass(frozen=True)
class Raw:
    """An answer that is not JSON made from a model."""

    body: bytes
    content_type: str


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for chunk in nothing:
        yield chunk


@dataclass(frozen=True)
class Call:
    """One checked request. `stream` and `length` are the body of routes that take one."""

    services: Services
    actor: Actor
    path: Mapping[str, str]
    query: Any
    body: Any
    raw_body: bytes = b""
    stream: AsyncIterator[bytes] = field(default_factory=_nothing)
    length: int | None = None

    @property
    def now_s(self) -> float:
        """The control host's time."""
        return self.services.now()


Handler = Callable[[Call], Awaitable[BaseModel | Raw]]

OPEN: Final = None
"""The permission of routes that anybody may call."""


@dataclass(frozen=True)
class Route:
    """One route. `permission` None: no token is asked for.

    `takes_bytes`: the handler gets the body as it came, within `api.max_body_bytes`;
    `takes_stream`: it reads the body itself, and bounds it.
    """

    method: Method
    path: str
    handler: Handler
    permission: Permission | None
    summary: str
    query: type[Model] = NoQuery
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    status: int = 200
    tag: str = ""
    takes_bytes: bool = False
    takes_stream: bool = False
    content_type: str = "application/json"
    parameters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))
        object.__setattr__(self, "parameters", names)

    @property
    def name(self) -> str:
        """Its operation id."""
        return self.handler.__name__


def float_cursor(text: str | None) -> float | None:
    """The cursor of lists that go backwards in time. Raises `UsageError`."""
    try:
        return None if text is None else float(text)
    except ValueError as error:
        raise UsageError("not a `next` of this list", param="after") from error


def int_cursor(text: str | None) -> int | None:
    """The cursor of lists by number. Raises `UsageError`."""
    try:
        return None if text is None else int(text)
    except ValueError as error:
        raise UsageError("not a `next` of this list", param="after") from error
