"""A Redis that is guarded: the service under exactly the ACL of ``docs/operations.md``, with a password, over TLS.

The Valkey that tests start has no TLS of its own, so a proxy ends it in front of one; where a redis-server or
valkey-server on PATH was built with TLS, it takes the same test by itself.
"""

import asyncio
import logging
import re
import select
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from meanwhile.core.idempotency_keys import Key
from meanwhile.core.shapes import NUMBER
from meanwhile.core.state import State
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable, connect
from meanwhile.storage.store import Store
from tests.support import calls
from tests.support.paths import ROOT
from tests.support.servers import Service, Valkey, free_port, service, short_directory
from tests.support.summaries import summary_of

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ONE = State(NUMBER, summary_of([[1.0]], 5, 5))


def acl() -> str:
    """The ACL of ``docs/operations.md``, as it stands there."""
    found = re.search(r"```text\n(\s*user default off\n.*?)```", OPERATIONS, re.DOTALL)
    assert found is not None
    return "".join(f"{line.strip()}\n" for line in found[1].splitlines())


@contextmanager
def guarded_valkey() -> Iterator[Valkey]:
    """A server that admits whom the ACL of ``docs/operations.md`` admits, and nobody else."""
    with short_directory() as directory:
        (directory / "users.acl").write_text(acl())
        arguments = ("--aclfile", str(directory / "users.acl"), "--appendonly", "yes", "--appendfsync", "always")
        server = Valkey(directory, arguments)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of a certificate for 127.0.0.1 that vouches for itself, and of its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not on PATH")
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "ca.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=meanwhile test"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


class Proxy(socketserver.ThreadingTCPServer):
    """Ends TLS, and passes on to a server at a unix socket."""

    daemon_threads, block_on_close = True, False

    def __init__(self, server: Valkey, certificate: tuple[Path, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.server = server
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certificate)


class Connection(socketserver.BaseRequestHandler):
    """One connection to the proxy, until either side closes it."""

    server: Proxy

    def handle(self) -> None:
        wrap = self.server.context.wrap_socket
        with suppress(OSError), socket.socket(socket.AF_UNIX) as up, wrap(self.request, server_side=True) as down:
            up.connect(str(self.server.server.socket))
            while True:
                for one in select.select([up, down], [], [])[0]:
                    data = one.recv(65_536)
                    if not data:
                        return
                    (down if one is up else up).sendall(data)


@contextmanager
def behind_a_proxy(certificate: tuple[Path, Path]) -> Iterator[int]:
    """The TLS port of a guarded server, in front of which a proxy ends TLS."""
    with guarded_valkey() as server, Proxy(server, certificate) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy.server_address[1]
        finally:
            proxy.shutdown()
            thread.join()


@contextmanager
def with_tls_of_its_own(certificate: tuple[Path, Path]) -> Iterator[int]:
    """The TLS port of a guarded server from PATH."""
    binary = shutil.which("valkey-server") or shutil.which("redis-server")
    if binary is None:
        pytest.skip("there is no valkey-server or redis-server on PATH: apt install redis-server")
    with short_directory() as directory:
        (directory / "users.acl").write_text(acl())
        port = free_port()
        process = subprocess.Popen(
            [
                *(binary, "--port", "0", "--tls-port", str(port), "--dir", str(directory), "--save", ""),
                *("--aclfile", str(directory / "users.acl"), "--appendonly", "yes", "--appendfsync", "always"),
                *("--tls-cert-file", str(certificate[0]), "--tls-key-file", str(certificate[1])),
                *("--tls-ca-cert-file", str(certificate[0]), "--tls-auth-clients", "no"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            if not any("Ready to accept connections" in line for line in lines):
                pytest.skip(f"{binary} was not built with TLS")
            yield port
        finally:
            process.terminate()
            process.communicate(timeout=20)


def everything_works(running: Service) -> None:
    with calls.client(base_url=running.url, timeout=20) as client:
        key = {"Idempotency-Key": "gateway:1"}
        assert 200 == client.get("/readyz").status_code
        for duplicate in (False, True):
            reply = client.post("/v1/streams/a/readings", json={"value": 1.5}, headers=key)
            assert duplicate == reply.json().get("duplicate", False)
        assert {"readings": 2, "streams": 2} == client.post(
            "/v1/readings", json={"a": {"value": 2.5}, "b": {"value": 1}}
        ).json()
        assert {"stream": "a", "count": 2} == client.get("/v1/streams/a/count").json()
        assert 2.0 == client.get("/v1/streams/a").json()["average"]
        assert ["a", "b"] == client.get("/v1/streams").json()["streams"]
        assert 2 == client.delete("/v1/streams/a").json()["count"]
        assert 404 == client.get("/v1/streams/a").status_code


@pytest.mark.parametrize("guarded", [behind_a_proxy, with_tls_of_its_own], ids=["Valkey behind TLS", "TLS of its own"])
def test_everything_works_under_the_acl_of_the_readme_over_tls(
    certificate: tuple[Path, Path], guarded: Callable[[tuple[Path, Path]], AbstractContextManager[int]]
) -> None:
    with guarded(certificate) as port:
        url = f"rediss://meanwhile:secret@127.0.0.1:{port}/0?ssl_ca_certs={certificate[0]}"
        with service(MEANWHILE_REDIS_URL=url, MEANWHILE_MAX_STREAMS="100") as running:
            everything_works(running)
            assert "NOPERM" not in running.log
            assert "permission" not in running.log


async def test_a_certificate_that_nobody_vouches_for_and_a_wrong_password_are_refused(
    certificate: tuple[Path, Path],
) -> None:
    trusted = f"?ssl_ca_certs={certificate[0]}"
    with behind_a_proxy(certificate) as port:
        async with connect(f"rediss://meanwhile:secret@127.0.0.1:{port}/0{trusted}") as redis:
            assert await redis.ping()
        for user, host, options in (
            ("meanwhile:secret", "127.0.0.1", ""),
            ("meanwhile:secret", "localhost", trusted),  # The certificate is not for this name.
            ("meanwhile:wrong", "127.0.0.1", trusted),
            ("default:", "127.0.0.1", trusted),
        ):
            async with connect(f"rediss://{user}@{host}:{port}/0{options}") as redis:
                with pytest.raises(StoreUnavailable):
                    await Store(redis, "meanwhile").ping(asyncio.get_running_loop().time() + 10)
        await asyncio.sleep(0.1)  # A connection that failed is closed by the loop, later.


async def test_the_acl_of_the_readme_allows_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with guarded_valkey() as server:
        url = f"unix://meanwhile:secret@{server.socket}"
        async with connect(url) as redis:
            store = Store(redis, "meanwhile", replicas=1)
            with caplog.at_level(logging.WARNING), pytest.raises(OutcomeUnknown):
                await store.commit([{"s": ONE}], asyncio.get_running_loop().time() + 0.2, {0: Key("p", 1)})
            assert "unknown outcome" in caplog.text
            assert "permission" not in caplog.text  # WAIT was allowed; there is only no replica.
            for command in (
                *(["GET", "other"], ["SET", "other", "1"], ["MGET", "meanwhile:stream:s", "other"], ["KEYS", "*"]),
                *(["EVAL", "return 1", "1", "other"], ["FLUSHALL"], ["FLUSHDB"], ["CONFIG", "SET", "maxmemory", "1"]),
                *(["CONFIG", "GET", "*"], ["ACL", "LIST"], ["SHUTDOWN"], ["REPLICAOF", "NO", "ONE"]),
            ):
                with pytest.raises(NoPermissionError):
                    await run(redis, *command)


async def run(redis: "Redis", *command: str) -> None:
    await redis.execute_command(*command)  # type: ignore[no-untyped-call]  # theirs
