"""Write the reference page of the REST API from the table of routes.

python -m fleet.api.reference docs/reference
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from fleet.api.routes import Route
from fleet.api.table import ROUTES
from fleet.registry.tokens import MAY

PAGE = "fleet-api.md"
_CALLS = (
    "Every route but the open ones takes `Authorization: Bearer <token>`. Bodies and answers are "
    "JSON; times are UTC epoch seconds. The fields of each are in `/openapi.json`."
)
_ANSWERS = (
    'Lists answer `{"items": [...], "next": ...}`: give `next` as `after` for the following page. '
    'Errors answer `{"error": {"code", "message", "param", "request_id"}}`.'
)


def page(routes: Sequence[Route] = ROUTES) -> str:
    """The whole page."""
    lines = [
        "# The control host's REST API",
        "",
        "<!-- made by `python -m fleet.api.reference docs/reference`; do not edit -->",
        "",
        _CALLS,
        "",
        _ANSWERS,
    ]
    for tag, group in groupby(routes, key=lambda route: route.tag):
        lines += ["", f"## {tag.capitalize()}", "", "| route | who | what | query |"]
        lines += ["|---|---|---|---|", *(_row(route) for route in group)]
    return "\n".join(lines) + "\n"


def _row(route: Route) -> str:
    who = "anybody"
    if route.permission is not None:
        who = ", ".join(role for role, may in MAY.items() if route.permission in may)
    query = ", ".join(f"`{name}`" for name in route.query.model_fields)
    return f"| `{route.method} {route.path}` | {who} | {route.summary} | {query} |"


def main(folder: Path) -> None:
    """Write the page into `folder`."""
    (folder / PAGE).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
