"""Errors by whose fault they are.

Callers decide by family, never by message:

- `BundleError`: the content is bad or hostile. Retrying the same bytes cannot help.
- `TransportError`: the network or a peer failed. Retrying may help.
- `CapacityError`: this box is full or not ready. Retry after `retry_after_s`.
- `UsageError`: the caller asked for something this box does not do. Change the request.
- `ConfigError`: the settings are wrong. The process refuses to start.
- `EngineError`: this program failed. It is a bug or a broken machine.

The message of each says what to do next.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Root of every error raised on purpose by this project."""


class BundleError(EdgeError):
    """A bundle, or a document about one, is refused: names the file and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class TransportError(EdgeError):
    """A peer could not be reached or broke off; the same call may succeed later."""


class CapacityError(EdgeError):
    """The box cannot take the request now.

    `status` is 429 when the caller should slow down and 503 when the box is not ready.
    `reason` is the label of the metric that counts it.
    """

    def __init__(
        self, message: str, *, retry_after_s: float, status: int = 429, reason: str = "not_ready"
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.status = status


class UsageError(EdgeError):
    """The request cannot be served as written; `param` names the field, `code` the rule."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str = "invalid_value",
        status: int = 400,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


class ConfigError(EdgeError):
    """The settings cannot be used; the message names the key and what it may be."""


class EngineError(EdgeError):
    """A model run failed on this box; the request is lost, the box goes on."""
