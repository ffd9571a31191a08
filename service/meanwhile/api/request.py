"""The request context: one typed object per request, which handlers receive.

The ASGI scope contains only what ASGI defines.
"""

from collections.abc import Callable

from starlette.types import Message, Receive, Scope

from meanwhile.api.connection import ConnectionProtocol
from meanwhile.api.headers import Headers
from meanwhile.api.key_file import UNRESTRICTED, Grant

_NO_SCOPE: Scope = {}


def _allow(request: "Request") -> None: ...


async def _receive_nothing() -> Message:
    return {"type": "http.disconnect"}


class Request:
    """One HTTP request.

    ``method`` is GET if the request is HEAD. ``query`` is the query string, percent-encoded. ``connection`` is the
    connection of the request, or None if another ASGI server runs the application. ``scope`` and ``receive`` come from
    the server, as ASGI defines them; an ``Exchange`` has neither.

    ``stream`` is the name in the path, not yet validated. ``grant`` is what the API key of the request allows, once the
    request is authorized; ``authorize`` does that. ``reserved`` bytes are reserved for its body; ``release``, if it is
    set, is called when the request has been answered.
    """

    __slots__ = (
        *("authorize", "connection", "grant", "headers", "is_head", "method", "path", "query", "receive", "release"),
        *("reserved", "scope", "stream"),
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Headers,
        connection: ConnectionProtocol | None,
        scope: Scope = _NO_SCOPE,
        receive: Receive = _receive_nothing,
    ) -> None:
        self.is_head = method == "HEAD"
        self.method = "GET" if self.is_head else method
        self.path = path
        self.query = query
        self.headers = headers
        self.connection = connection
        self.scope = scope
        self.receive = receive
        self.authorize: Callable[[Request], None] = _allow
        self.stream = ""
        self.grant: Grant = UNRESTRICTED
        self.reserved = 0
        self.release: Callable[[], None] | None = None

    def authorize_again(self) -> None:
        """Authorizes the request again, because the keys may have been reloaded. Raises what the guard raises."""
        self.authorize(self)

    @classmethod
    def of_scope(cls, scope: Scope, receive: Receive, connection: ConnectionProtocol | None = None) -> "Request":
        """Returns the request of an ASGI scope."""
        headers = Headers(scope["headers"])
        return cls(scope["method"], scope["path"], scope["query_string"], headers, connection, scope, receive)

    @property
    def query_string(self) -> str:
        """The query string, without the question mark, percent-encoded."""
        return self.query.decode("latin-1")
