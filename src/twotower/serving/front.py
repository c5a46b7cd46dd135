"""The page at ``/``: a few files, read when the service starts.

Nothing in them is made from data: their scripts ask the same routes as anybody. Their policy
allows no script, style or connection but those of the service itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Request, Response

_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def add_page(app: FastAPI) -> None:
    """Add a route a file; no name from a request is ever looked up."""
    folder = files("twotower.serving").joinpath("page")
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            route = _giving(file.read_bytes(), f"{kind}; charset=utf-8")
            app.add_api_route(path, route, methods=["GET"], include_in_schema=False)


def _giving(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def give(_: Request) -> Response:
        return Response(content, headers={**_HEADERS, "Content-Type": kind})

    return give
