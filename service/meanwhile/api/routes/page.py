"""The page at / and the document at /docs: files of this package, kept in memory and served under a strict policy.

They hold no data, so they need no API key; the page asks for one when the API does. Each file has a route of its own,
so there is no path to walk out of. The policy lets a page load and reach nothing but this service, and run no script
and apply no style that is not one of these files; so a name or a value from a stranger can at worst be ugly.
"""

import hashlib
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
    "cache-control": "no-cache",  # Asked for each time, and answered with 304: after an update nobody has an old half.
}


def routes() -> list[Route]:
    """One for each file."""
    return [_route(path, file) for path, file in _files(resources.files("meanwhile").joinpath("web"), "/web")]


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
