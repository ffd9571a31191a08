"""The request context: one typed object per request, which handlers receive.

The ASGI scope contains only what ASGI defines.
"""

from collections.abc import Callable

from starlette.types import Receive, Scope

from meanwhile.api.connection import ConnectionProtocol
from meanwhile.api.headers import Headers
from meanwhile.api.key_file import UNRESTRICTED, Grant


class Request:
    """One HTTP request.

    ``scope`` and ``receive`` come from the server, as ASGI defines them. ``connection`` is the connection of the
    request, or None if another ASGI server runs the application. ``stream`` is the name in the path, not yet validated.
    ``grant`` is what the API key of the request allows, once the request is authorized. ``reserved`` bytes are reserved
    for its body; ``release``, if it is set, is called when the request has been answered.
    """

    __slots__ = (
        *("connection", "grant", "headers", "is_head", "method", "path", "receive", "release", "reserved", "scope"),
        "stream",
    )

    def __init__(self, scope: Scope, receive: Receive, connection: ConnectionProtocol | None = None) -> None:
        self.scope = scope
        self.receive = receive
        self.connection = connection
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.is_head = self.method == "HEAD"
        if self.is_head:
            self.method = "GET"
        self.headers = Headers(scope["headers"])
        self.stream = ""
        self.grant: Grant = UNRESTRICTED
        self.reserved = 0
        self.release: Callable[[], None] | None = None

    @property
    def query_string(self) -> str:
        """The query string, without the question mark, percent-encoded."""
        query: bytes = self.scope["query_string"]
        return query.decode("latin-1")
