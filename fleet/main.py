"""Start `edge-fleet`, or say what is missing: its packages come with the extra `fleet` alone."""

from __future__ import annotations

import sys

PACKAGES = frozenset({"amqtt", "cel_expr_python", "onnx", "psycopg", "sqlalchemy"})


def app() -> None:
    """The command."""
    try:
        from fleet.cli import app as command  # noqa: PLC0415 - what it imports may be missing
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        sys.exit(
            f"edge-fleet: {error.name} is not installed; install the control host's packages with "
            "`pip install edge-runtime[fleet]`"
        )
    command()
