"""The address of a broker, and what it is shown to connect: user, password and certificates."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class BrokerAddress(NamedTuple):
    """Host and port of a broker, whether to use TLS, and the credentials.

    ``ca`` is a file of certificates to trust instead of the system's; ``cert`` and ``key`` are our own.
    """

    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def parse(cls, url: str, username: str | None, password: str | None) -> "BrokerAddress":
        """The address in ``mqtt://[user[:password]@]host[:port]`` or ``mqtts://...``.

        ``username`` and ``password`` replace those in the URL, unless they are None. Raises ``ValueError``.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("Expected mqtt://host:port or mqtts://host:port.")
        tls = parts.scheme == "mqtts"
        user = username if username is not None else (parts.username and unquote(parts.username))
        secret = password if password is not None else (parts.password and unquote(parts.password))
        return cls(parts.hostname, parts.port or (8883 if tls else 1883), tls, user, secret)
