"""A client of the service for the command line: counts every reading once and reports what is refused.

Every request that records readings has an idempotency key, so a request that fails can be sent again.

**What a key covers in one stream depends on the caller alone, never on a reply.** Otherwise a later run, to which the
service replies differently, would send the same readings under other keys. So the readings of one stream in a request
are never divided; only the streams are, since each stream remembers the keys by itself. And once a stream has refused
readings, nothing more is sent to it: later readings would make the key of the refused ones too old to be sent again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import httpx

from meanwhile.cli import reply_checks
from meanwhile.cli.reply_checks import Unexpected, problem, reason
from meanwhile.core.stream_names import is_name

_PROBLEM = "urn:meanwhile:problem:"
_ABOUT_READINGS = frozenset({400, 409, 413, 422})  # Statuses of a refusal that may concern only some of the readings.
_LIMITS = {  # By the type of the problem.
    f"{_PROBLEM}too-many-readings": "MEANWHILE_MAX_READINGS and MEANWHILE_MAX_NUMBERS",
    f"{_PROBLEM}too-large": "MEANWHILE_MAX_BODY",
}
_LIMIT_OF_PROXY = "the maximum body size of the proxy in front of the service (in nginx, client_max_body_size)"
_LONGEST_SILENCE = 40  # Seconds. An event stream sends a comment every 15.
_TRIES = 60  # One second apart: long enough for a restart of the service.


class Unsent(Exception):
    """The service cannot be reached or refuses the request; the message says which.

    ``is_temporary`` says whether a later attempt may succeed.
    """

    def __init__(self, message: str, *, is_temporary: bool = False) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


@dataclass
class Outcome:
    """What happened to readings.

    ``recorded`` and ``refused`` are numbers of readings by stream, ``duplicates`` is how many of the recorded ones an
    earlier run had already recorded, and ``reasons`` holds the last reason for a refusal, by stream.
    """

    recorded: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of readings recorded."""
        return sum(self.recorded.values())

    def refuse(self, stream: str, count: int, reason: str) -> None:
        """Counts readings as refused."""
        self.refused[stream] = self.refused.get(stream, 0) + count
        self.reasons[stream] = reason


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
            raise self._foreign(error) from None

    def send(self, batch: Mapping[str, Any], key: str) -> None:
        """Records readings of any shape by stream, all or none, with this idempotency key. Raises ``Unsent``."""
        body = {stream: {"values": values} for stream, values in batch.items()}
        reply = self._request("POST", "/v1/readings", json=body, headers={"Idempotency-Key": key})
        if not reply.is_success:
            raise Unsent(reason(reply))
        try:
            reply_checks.duplicates(reply)
        except Unexpected as error:
            raise self._foreign(error) from None

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
            raise self._foreign(error) from None
        except httpx.DecodingError:
            raise self._foreign(Unexpected("an event stream")) from None
        except httpx.ConnectError:
            raise Unsent(self._unreachable, is_temporary=True) from None
        except httpx.HTTPError as error:
            raise Unsent(f"The connection was lost: {error}.", is_temporary=True) from None

    def record(self, batch: Mapping[str, list[float]], producer: str, sequence: int, outcome: Outcome) -> None:
        """Records scalar readings by stream, each once, and adds the result to ``outcome``.

        The idempotency key of the request is ``<producer>:<sequence>``. Sequence numbers must grow from batch to batch
        and be the same for the same readings, whatever the replies; then a key that a stream calls too old was counted
        in an earlier run.

        A refused request has recorded nothing, so its streams are sent again, under the same key: without the
        conflicting ones if there are any, otherwise in two halves, until only the streams at fault are left out. They
        are refused from then on, whatever the batch. Raises ``Unsent``, also if one stream is too much for a request.
        """
        for stream in batch.keys() & outcome.refused.keys():
            outcome.refuse(stream, len(batch[stream]), outcome.reasons[stream])
        batch = {stream: values for stream, values in batch.items() if stream not in outcome.refused}
        if not batch:
            return
        body = {stream: {"values": values} for stream, values in batch.items()}
        reply = self._request("POST", "/v1/readings", json=body, headers={"Idempotency-Key": f"{producer}:{sequence}"})
        try:
            self._take(reply, batch, producer, sequence, outcome)
        except Unexpected as error:
            raise self._foreign(error) from None

    def _take(
        self, reply: httpx.Response, batch: Mapping[str, list[float]], producer: str, sequence: int, outcome: Outcome
    ) -> None:
        """Adds a reply to ``outcome``, or sends the streams that a refused request leaves. Raises ``Unexpected``."""
        size = sum(map(len, batch.values()))
        kind = problem(reply).get("type")
        is_old = reply.status_code == httpx.codes.CONFLICT and kind == f"{_PROBLEM}key-too-old"
        if reply.is_success or (is_old and len(batch) == 1):
            outcome.duplicates += size if is_old else reply_checks.duplicates(reply)
            for stream, values in batch.items():
                outcome.recorded[stream] = outcome.recorded.get(stream, 0) + len(values)
        elif reply.status_code not in _ABOUT_READINGS:
            raise Unsent(reason(reply))
        elif conflicting := reply_checks.conflicting(reply, batch):
            for stream in conflicting:
                outcome.refuse(stream, len(batch[stream]), reason(reply))
            rest = {stream: values for stream, values in batch.items() if stream not in conflicting}
            self.record(rest, producer, sequence, outcome)
        elif len(batch) > 1:
            names = list(batch)
            middle = len(names) // 2
            for half in (names[:middle], names[middle:]):
                self.record({name: batch[name] for name in half}, producer, sequence, outcome)
        elif reply.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            limit = _LIMITS.get(str(kind), _LIMIT_OF_PROXY)
            raise Unsent(
                f"{reason(reply).rstrip('.')}. One request has {size} readings of a stream; they are never divided, so "
                f"that none is counted twice. Raise {limit}, then run the command again."
            )
        else:
            ((stream, values),) = batch.items()
            outcome.refuse(stream, len(values), reason(reply))

    def _request(self, method: str, path: str, tries: int = _TRIES, **arguments: Any) -> httpx.Response:
        for left in reversed(range(tries)):
            pause = 1.0
            try:
                reply = self._http.request(method, path, **arguments)
            except httpx.ConnectError:
                last = self._unreachable
            except httpx.DecodingError:
                raise self._foreign(Unexpected("a reply that can be decoded")) from None
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
            raise self._foreign(Unexpected(f"a reply without a redirection ({reply.status_code})"))

    def _foreign(self, error: Unexpected) -> Unsent:
        return Unsent(f"Expected {error}. {self._url} may not be the URL of a Meanwhile service.")


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and url.host != "" and (url.port is None or 0 < url.port < 65_536)
