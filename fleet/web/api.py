"""Routes of the console: `/` and its assets.

Rules
- They hold no data, so they are the same for everybody and need no token; the page asks the REST
  API with the token it is given.
- They come with the package: nothing is built, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from aiohttp import web

ASSETS: Final = {
    "/": ("index.html", "text/html"),
    "/console/page.css": ("page.css", "text/css"),
    "/console/page.js": ("page.js", "text/javascript"),
    "/console/dom.js": ("dom.js", "text/javascript"),
    "/console/api.js": ("api.js", "text/javascript"),
    "/console/fleet.js": ("fleet.js", "text/javascript"),
    "/console/boxes.js": ("boxes.js", "text/javascript"),
    "/console/rollouts.js": ("rollouts.js", "text/javascript"),
    "/console/telemetry.js": ("telemetry.js", "text/javascript"),
    "/console/cost.js": ("cost.js", "text/javascript"),
    "/console/plot.js": ("plot.js", "text/javascript"),
}
"""By path: the file in the package, and its type."""

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def console_routes() -> list[web.RouteDef]:
    """The page and its assets; raises `FileNotFoundError` where the package lacks one."""
    folder = resources.files("fleet.web") / "page"
    return [
        _route(path, (folder / name).read_bytes(), content_type)
        for path, (name, content_type) in ASSETS.items()
    ]


def _route(path: str, data: bytes, content_type: str) -> web.RouteDef:
    async def get_asset(_request: web.Request) -> web.Response:
        return web.Response(body=data, content_type=content_type, charset="utf-8", headers=HEADERS)

    return web.get(path, get_asset)
