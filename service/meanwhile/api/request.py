"""The request context: one typed object per request, which handlers receive.

The ASGI scope contains only what ASGI defines.
"""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

from meanwhile.api.connection import ConnectionProtocol
from meanwhile.api.key_file import UNRESTRICTED, Grant
from meanwhile.api.request_head import Headers
from meanwhile.api.whole_request import Target, WholeRequest

_NO_SCOPE: Scope = {}


def _allow(request: "Request") -> None: ...


async def _receive_nothing() -> Message:
    return {"type": "http.disconnect"}


@dataclass(slots=True, eq=False)
class Request:
    """One HTTP request.

    ``method`` is GET if the request is HEAD. ``query`` is the query string, percent-encoded. ``connection`` is the
    connection of the request, or None if another ASGI server runs the application. ``scope`` and ``receive`` come from
    the server, as ASGI defines them; a ``WholeRequest`` has neither.

    ``stream`` is the name in the path, not yet validated. ``grant`` is what the API key of the request allows, once the
    request is authorized; ``authorize`` does that. ``reserved`` bytes are reserved for its body; ``release``, if it is
    set, is called when the request has been answered.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    connection: ConnectionProtocol | None
    scope: Scope
    receive: Receive
    is_head: bool = False
    stream: str = ""
    grant: Grant = UNRESTRICTED
    authorize: Callable[["Request"], None] = _allow
    reserved: int = 0
    release: Callable[[], None] | None = None

    @classmethod
    def of_scope(cls, scope: Scope, receive: Receive, connection: ConnectionProtocol | None = None) -> "Request":
        """Returns the request of an ASGI scope."""
        is_head = scope["method"] == "HEAD"
        method = "GET" if is_head else scope["method"]
        headers = Headers(scope["headers"])
        return cls(method, scope["path"], scope["query_string"], headers, connection, scope, receive, is_head)

    @classmethod
    def of_whole(cls, whole: WholeRequest, target: Target, connection: ConnectionProtocol) -> "Request":
        """Returns the request for ``target`` that has arrived as ``whole``."""
        _, path, query, stream = target
        return cls(whole.method, path, query, whole.headers, connection, _NO_SCOPE, _receive_nothing, stream=stream)

    def authorize_again(self) -> None:
        """Authorizes the request again, because the keys may have been reloaded. Raises what the guard raises."""
        self.authorize(self)

    @property
    def query_string(self) -> str:
        """The query string, without the question mark, percent-encoded."""
        return self.query.decode("latin-1")
