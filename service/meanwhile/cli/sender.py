"""Sends the readings of a file, each once, and reports what is refused: ``meanwhile send``.

**What a key covers in one stream depends on the caller alone, never on a reply.** Otherwise a later run, to which the
service replies differently, would send the same readings under other keys. So the readings of one stream in a request
are never divided; only the streams are, since each stream remembers the keys by itself. And once a stream has refused
readings, nothing more is sent to it: later readings would make the key of the refused ones too old to be sent again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from meanwhile.cli import reply_checks
from meanwhile.cli.csv_reader import CsvReader
from meanwhile.cli.http_client import Client, Unsent
from meanwhile.cli.reply_checks import Unexpected, problem, reason

_BATCH = 10_000  # Readings in a request; fixed, so that each part of a file always has the same idempotency key.
_PROBLEM = "urn:meanwhile:problem:"
_ABOUT_READINGS = frozenset({400, 409, 413, 422})  # Statuses of a refusal that may concern only some of the readings.
_LIMITS = {  # By the type of the problem.
    f"{_PROBLEM}too-many-readings": "MEANWHILE_MAX_READINGS and MEANWHILE_MAX_NUMBERS",
    f"{_PROBLEM}too-large": "MEANWHILE_MAX_BODY",
}
_LIMIT_OF_PROXY = "the maximum body size of the proxy in front of the service (in nginx, client_max_body_size)"


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


class Sender:
    """Sends batches of readings with ``client``, and adds what happens to them to ``outcome``.

    ``producer`` identifies the file and how it is read. The idempotency key of a batch is ``<producer>:<sequence>``.
    """

    def __init__(self, client: Client, producer: str, outcome: Outcome) -> None:
        self._client = client
        self._producer = producer
        self._outcome = outcome

    def send_file(self, reader: CsvReader) -> Iterator[int]:
        """Sends a file in batches. Yields the bytes of it read after each. Raises ``Unsent`` or ``Unusable``."""
        for number, batch in enumerate(reader.batches(_BATCH)):
            self.send(batch, number * _BATCH)
            yield reader.position

    def send(self, batch: Mapping[str, list[float]], sequence: int) -> None:
        """Records scalar readings by stream, each once.

        Sequence numbers must grow from batch to batch and be the same for the same readings, whatever the replies; then
        a key that a stream calls too old was counted in an earlier run.

        A refused request has recorded nothing, so its streams are sent again, under the same key: without the
        conflicting ones if there are any, otherwise in two halves, until only the streams at fault are left out. They
        are refused from then on, whatever the batch. Raises ``Unsent``, also if one stream is too much for a request.
        """
        outcome = self._outcome
        for stream in batch.keys() & outcome.refused.keys():
            outcome.refuse(stream, len(batch[stream]), outcome.reasons[stream])
        batch = {stream: values for stream, values in batch.items() if stream not in outcome.refused}
        if not batch:
            return
        reply = self._client.post(batch, f"{self._producer}:{sequence}")
        try:
            self._take(reply, batch, sequence)
        except Unexpected as error:
            raise self._client.foreign(error) from None

    def _take(self, reply: httpx.Response, batch: Mapping[str, list[float]], sequence: int) -> None:
        """Adds a reply to the outcome, or sends the streams that a refused request leaves. Raises ``Unexpected``."""
        outcome = self._outcome
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
            self.send(rest, sequence)
        elif len(batch) > 1:
            names = list(batch)
            middle = len(names) // 2
            for half in (names[:middle], names[middle:]):
                self.send({name: batch[name] for name in half}, sequence)
        elif reply.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            limit = _LIMITS.get(str(kind), _LIMIT_OF_PROXY)
            raise Unsent(
                f"{reason(reply).rstrip('.')}. One request has {size} readings of a stream; they are never divided, so "
                f"that none is counted twice. Raise {limit}, then run the command again."
            )
        else:
            ((stream, values),) = batch.items()
            outcome.refuse(stream, len(values), reason(reply))
