"""The page at / and the API documentation at /docs: files of this package, served from memory with a strict policy.

The files contain no data, so they need no API key; the page asks for a key when the API requires one. Each file has a
separate route, so a path traversal is impossible. The content security policy allows a page to load from and connect to
this service only, and to use only the scripts and styles among these files. So a malicious name or value can at worst
look ugly.
"""

import hashlib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGES = {"index.html": "/", "docs.html": "/docs"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # Revalidated each time: after an update, no browser mixes old and new files.
}


@cache
def routes() -> tuple[Route, ...]:
    """Returns a route for each file; the files are read once in a process, however many applications it creates."""
    return tuple(_route(path, file) for path, file in _files(resources.files("meanwhile").joinpath("web"), "/web"))


def _files(directory: Traversable, path: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in directory.iterdir():
        if entry.is_dir():
            found += _files(entry, f"{path}/{entry.name}")
        elif entry.name.rpartition(".")[2] in _MEDIA_TYPES:
            found.append((_PAGES.get(entry.name, f"{path}/{entry.name}"), entry))
    return found


def _route(path: str, file: Traversable) -> Route:
    body = file.read_bytes()
    headers = _HEADERS | {
        "content-type": _MEDIA_TYPES[file.name.rpartition(".")[2]],
        "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
    }

    async def answer(request: Request) -> Response:
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if headers["etag"] in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers)

    return Route(path, answer, methods=["GET"], include_in_schema=False)
