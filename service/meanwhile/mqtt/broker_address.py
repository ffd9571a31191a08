"""The address of a broker, and what it is shown to connect: user, password and certificates."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    def check_files(self) -> None:
        """Raises ``ValueError`` for a file that TLS cannot use; the message names the option and the file."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            with _refusal("ca", self.ca, "CA certificates"):
                context.load_verify_locations(self.ca)
        if self.cert is None:
            if self.key is not None:
                raise ValueError("--key: Expected --cert, too: the certificate that belongs to the key.")
            return
        with _refusal("cert", self.cert, "a certificate"):
            context.load_verify_locations(self.cert)
        option, file = ("cert", self.cert) if self.key is None else ("key", self.key)
        with suppress(_Encrypted), _refusal(option, file, f"the private key of the certificate in {self.cert}"):
            context.load_cert_chain(self.cert, self.key, _refuse_to_ask)


class _Encrypted(Exception):
    """The private key is encrypted. Only the connection asks for the password, once."""


def _refuse_to_ask() -> str:
    raise _Encrypted


@contextmanager
def _refusal(option: str, file: Path, expected: str) -> Iterator[None]:
    """Says of an error inside which option caused it."""
    try:
        yield
    except ssl.SSLError:
        raise ValueError(f"--{option}: Expected {file} to contain {expected}, in PEM format.") from None
    except OSError as error:
        raise ValueError(f"--{option}: {file} cannot be read: {error.strerror}.") from None
