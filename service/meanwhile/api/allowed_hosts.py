"""Which hosts an open service answers to: those that no stranger's web site can have.

A web page can be made to reach a service on its visitor's network as its own origin: its name, such as evil.test,
changes from the address of its server to 127.0.0.1 (DNS rebinding), and then no rule about origins holds the page back.
What gives it away is the Host of its requests. So a service without API keys answers to addresses, to names that are
never public, and to those that its operator allows. With API keys any host will do: the page has none.
"""

import re
from collections.abc import Collection, Iterable

from meanwhile.api.errors import Misdirected
from meanwhile.api.headers import Headers

# RFC 6761, 6762, 8375; .internal is reserved by ICANN, .lan is what home routers use.
_PRIVATE = ("localhost", "local", "internal", "home.arpa", "lan")
_ADDRESS = re.compile(r"\[[0-9a-f:.]+(?:%25[0-9a-z._~-]+)?\]|(?:[0-9]{1,3}\.){3}[0-9]{1,3}", re.ASCII)
_NAME = re.compile(
    r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?", re.ASCII
)
_MAX_KEPT = 1_000  # Hosts for which the decision is remembered, of at most 255 bytes each.

MISDIRECTED = Misdirected(
    "Expected a Host that is an address or a name of a private network, such as localhost or meanwhile.local. To use "
    "another name, list it in MEANWHILE_ALLOWED_HOSTS, or configure API keys."
)


class Hosts:
    """Decides by the Host header. ``allowed`` are more names; ``*`` in it allows all, ``*.example.org`` all below."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = {name.lower().rstrip(".") for name in allowed}
        self._decisions: dict[bytes, bool] = {}

    def are_answered(self, headers: Headers) -> bool:
        """Whether the service answers to the host of a request; a request of HTTP/1.0 may have none."""
        host = headers.get(b"host")
        if host is None:
            return True
        decision = self._decisions.get(host)
        return self._decide(host) if decision is None else decision

    def _decide(self, value: bytes) -> bool:
        decision = len(value) <= 255 and self._is_answered_to(value.decode("latin-1").strip().lower())
        if len(value) <= 255:
            if len(self._decisions) >= _MAX_KEPT:
                self._decisions.clear()
            self._decisions[value] = decision
        return decision

    def _is_answered_to(self, value: str) -> bool:
        host, _, port = value.rpartition(":")
        if not host or not (port == "" or (port.isascii() and port.isdigit())):
            host = value
        if "*" in self._allowed or _ADDRESS.fullmatch(host):
            return True
        if not _NAME.fullmatch(host):
            return False
        name = host.rstrip(".")
        return "." not in name or is_below(name, _PRIVATE) or name in self._allowed or is_below(name, self._wildcards)

    @property
    def _wildcards(self) -> Collection[str]:
        return [name[2:] for name in self._allowed if name.startswith("*.")]


def is_below(name: str, domains: Iterable[str]) -> bool:
    """Whether a host name is one inside a domain.

    >>> is_below("pi.local", ["local"]), is_below("local", ["local"]), is_below("pilocal", ["local"])
    (True, False, False)
    """
    return any(name.endswith(f".{domain}") for domain in domains)
