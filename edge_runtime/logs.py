"""Log lines: for people on a console, or JSON with a machine-readable `action`."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from edge_runtime.config import LogSettings

if TYPE_CHECKING:
    from structlog.typing import Processor


def configure_logs(settings: LogSettings) -> None:
    """Set up structlog for this process; lines go to standard error."""
    renderer: Processor
    if settings.format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # plain text: the richer forms print local variables, which hold prompts and keys
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            getattr(logging, settings.level.upper())
        ),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
