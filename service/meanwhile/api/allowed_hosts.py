"""The hosts that a service without API keys answers to: those that no public web site can have.

A web page can reach a service on the network of its visitor as its own origin: the DNS name of the page, such as
evil.test, changes from the address of its server to 127.0.0.1 (DNS rebinding), and then the same-origin policy does not
apply. But the Host header of its requests still has that name. So a service without API keys only answers to addresses,
to names that are never public, and to names that the operator allows. With API keys it answers to any host, because the
page has no key.
"""

import re
from collections.abc import Collection, Iterable

from meanwhile.api.refusals import Misdirected
from meanwhile.api.request_head import Headers

# RFC 6761, 6762, 8375; ICANN has reserved .internal, and home routers use .lan.
_PRIVATE = ("localhost", "local", "internal", "home.arpa", "lan")
_ADDRESS = re.compile(r"\[[0-9a-f:.]+(?:%25[0-9a-z._~-]+)?\]|(?:[0-9]{1,3}\.){3}[0-9]{1,3}", re.ASCII)
_NAME = re.compile(
    r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?", re.ASCII
)
_MAX_DECISIONS = 1_000  # Cached decisions, for hosts of at most 255 bytes each.

MISDIRECTED = Misdirected(
    "Expected a Host header with an address or the name of a private network, such as localhost or meanwhile.local. To "
    "use another name, add it to MEANWHILE_ALLOWED_HOSTS, or configure API keys."
)


class Hosts:
    """Decides by the Host header whether to answer a request.

    ``allowed`` are additional names: ``*`` allows all names, ``*.example.org`` all subdomains.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = {name.lower().rstrip(".") for name in allowed}
        self._decisions: dict[bytes, bool] = {}

    def allow(self, headers: Headers) -> bool:
        """Returns whether the service answers to the host of a request. Allows HTTP/1.0 requests without a host."""
        host = headers.get(b"host")
        if host is None:
            return True
        decision = self._decisions.get(host)
        return self._decide(host) if decision is None else decision

    def _decide(self, value: bytes) -> bool:
        decision = len(value) <= 255 and self._is_allowed(value.decode("latin-1").strip().lower())
        if len(value) <= 255:
            if len(self._decisions) >= _MAX_DECISIONS:
                self._decisions.clear()
            self._decisions[value] = decision
        return decision

    def _is_allowed(self, value: str) -> bool:
        host, _, port = value.rpartition(":")
        if not host or not (port == "" or (port.isascii() and port.isdigit())):
            host = value
        if "*" in self._allowed or _ADDRESS.fullmatch(host):
            return True
        if not _NAME.fullmatch(host):
            return False
        name = host.rstrip(".")
        return (
            "." not in name
            or is_subdomain(name, _PRIVATE)
            or name in self._allowed
            or is_subdomain(name, self._wildcards)
        )

    @property
    def _wildcards(self) -> Collection[str]:
        return [name[2:] for name in self._allowed if name.startswith("*.")]


def is_subdomain(name: str, domains: Iterable[str]) -> bool:
    """Returns whether a host name is inside one of the domains.

    >>> is_subdomain("pi.local", ["local"]), is_subdomain("local", ["local"]), is_subdomain("pilocal", ["local"])
    (True, False, False)
    """
    return any(name.endswith(f".{domain}") for domain in domains)
