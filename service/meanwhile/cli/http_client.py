"""A client of the service for the command line.

Every request that records readings has an idempotency key, so a request that fails can be sent again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import httpx

from meanwhile.cli import reply_checks
from meanwhile.cli.reply_checks import Unexpected, reason
from meanwhile.core.stream_names import is_name

_LONGEST_SILENCE = 40  # Seconds. An event stream sends a comment every 15.
_TRIES = 60  # One second apart: long enough for a restart of the service.


class Unsent(Exception):
    """The service cannot be reached or refuses the request; the message says which.

    ``is_temporary`` says whether a later attempt may succeed.
    """

    def __init__(self, message: str, *, is_temporary: bool = False) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


class Client:
    """A client of the service at ``url``. ``waiting`` is called with the reason when a request is first retried.

    Raises ``Unsent`` if the key or the URL is not valid.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        waiting: Callable[[str], None] = lambda reason: None,
    ) -> None:
        if key is not None and not (key.isascii() and key.isprintable()):
            raise Unsent("The API key contains characters that are not allowed in a key.")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        if not _is_url(url):
            raise Unsent(f"{url} is not a valid URL that starts with http:// or https://.")
        self._http = httpx.Client(base_url=url, headers=headers, timeout=60)
        self._url = url
        self._unreachable = f"Cannot connect to the service at {url}."
        self._sleep = sleep
        self._waiting = waiting

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def average(self, stream: str) -> str:
        """The average of a stream as text; makes one attempt. Raises ``Unsent`` with the reason if there is none."""
        if not is_name(stream):
            raise Unsent("This is not a valid stream name.")
        path = f"/v1/streams/{stream}/average"
        reply = self._request("GET", path, tries=1, headers={"Accept": "text/plain"})
        if not reply.is_success:
            raise Unsent(reason(reply))
        try:
            return reply_checks.average(reply)
        except Unexpected as error:
            raise self.foreign(error) from None

    def send(self, batch: Mapping[str, Any], key: str) -> None:
        """Records readings of any shape by stream, all or none, with this idempotency key. Raises ``Unsent``."""
        reply = self.post(batch, key)
        if not reply.is_success:
            raise Unsent(reason(reply))
        try:
            reply_checks.duplicates(reply)
        except Unexpected as error:
            raise self.foreign(error) from None

    def post(self, batch: Mapping[str, Any], key: str) -> httpx.Response:
        """Sends readings by stream with this idempotency key until there is a reply. Raises ``Unsent``."""
        body = {stream: {"values": values} for stream, values in batch.items()}
        return self._request("POST", "/v1/readings", json=body, headers={"Idempotency-Key": key})

    def foreign(self, error: Unexpected) -> Unsent:
        """Returns what to raise if a reply is not one of a Meanwhile service."""
        return Unsent(f"Expected {error}. {self._url} may not be the URL of a Meanwhile service.")

    def events(self, prefix: str | None) -> Iterator[tuple[str, Any]]:
        """The events of all streams with this prefix, with their data, until the connection ends. Raises ``Unsent``."""
        parameters = {} if prefix is None else {"prefix": prefix}
        try:
            with self._http.stream("GET", "/v1/events", params=parameters, timeout=_LONGEST_SILENCE) as reply:
                self._refuse_redirection(reply)
                if not reply.is_success:
                    reply.read()
                    raise Unsent(reason(reply), is_temporary=reply.is_server_error)
                reply_checks.check_events(reply)
                event = ""
                for line in reply.iter_lines():
                    name, _, content = line.partition(": ")
                    if name == "event":
                        event = content
                    elif name == "data" and event in reply_checks.EVENTS:
                        yield event, reply_checks.event_data(event, content)
        except Unexpected as error:
            raise self.foreign(error) from None
        except httpx.DecodingError:
            raise self.foreign(Unexpected("an event stream")) from None
        except httpx.ConnectError:
            raise Unsent(self._unreachable, is_temporary=True) from None
        except httpx.HTTPError as error:
            raise Unsent(f"The connection was lost: {error}.", is_temporary=True) from None

    def _request(self, method: str, path: str, tries: int = _TRIES, **arguments: Any) -> httpx.Response:
        for left in reversed(range(tries)):
            pause = 1.0
            try:
                reply = self._http.request(method, path, **arguments)
            except httpx.ConnectError:
                last = self._unreachable
            except httpx.DecodingError:
                raise self.foreign(Unexpected("a reply that can be decoded")) from None
            except httpx.HTTPError as error:
                last = f"The connection was lost: {error}."
            else:
                self._refuse_redirection(reply)
                if reply.status_code in (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT):
                    last = reason(reply)
                    pause = reply_checks.pause(reply, datetime.now(UTC))
                elif reply.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
                    raise Unsent(reason(reply))
                else:
                    return reply
            if left:
                if left == tries - 1:
                    self._waiting(last)
                self._sleep(pause)
        raise Unsent(last)

    def _refuse_redirection(self, reply: httpx.Response) -> None:
        if 300 <= reply.status_code < 400:
            raise self.foreign(Unexpected(f"a reply without a redirection ({reply.status_code})"))


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and url.host != "" and (url.port is None or 0 < url.port < 65_536)
