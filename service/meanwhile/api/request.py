"""What a handler knows of the request that it answers: one typed object, made once for each request.

Nothing travels in the ASGI scope but what ASGI defines.
"""

from starlette.types import Receive, Scope

from meanwhile.api.connection import ConnectionProtocol
from meanwhile.api.headers import Headers
from meanwhile.api.key_file import EVERYTHING, Grant


class Request:
    """One HTTP request.

    ``scope`` and ``receive`` are the server's, as ASGI defines them. ``connection`` is the connection that the request
    came over, or None under a server other than this service's. ``stream`` is the name in the path, not yet checked.
    ``grant`` is what the request's API key allows, once it is authorized.
    """

    __slots__ = ("connection", "grant", "headers", "is_head", "method", "path", "receive", "scope", "stream")

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
        self.grant: Grant = EVERYTHING

    @property
    def query_string(self) -> str:
        """What follows the question mark, percent-encoded."""
        query: bytes = self.scope["query_string"]
        return query.decode("latin-1")
