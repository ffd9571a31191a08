"""nginx and HAProxy in front of a service, as their manuals set them up, each on a free port."""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.servers import eventually, free_port, short_directory

NGINX = """
daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
  uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
  client_max_body_size 0;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream meanwhile {{ server 127.0.0.1:{upstream}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port};
    location /v1/streams/denied/ {{ return 403; }}
    location / {{
      proxy_pass http://meanwhile;
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"""

HAPROXY = """
global
  maxconn 256
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 30s
frontend in
  bind 127.0.0.1:{port}
  http-request deny if {{ path_beg /v1/streams/denied/ }}
  default_backend meanwhile
backend meanwhile
  http-reuse always
  server one 127.0.0.1:{upstream}
"""


@contextmanager
def nginx(upstream: int) -> Iterator[int]:
    """The port of an nginx that passes everything but /v1/streams/denied/ on, WebSockets too."""
    with _proxy("nginx", "nginx-light", NGINX, lambda file: ["-c", str(file)], upstream) as port:
        yield port


@contextmanager
def haproxy(upstream: int) -> Iterator[int]:
    """The port of an HAProxy that passes everything but /v1/streams/denied/ on."""
    with _proxy("haproxy", "haproxy", HAPROXY, lambda file: ["-f", str(file)], upstream) as port:
        yield port


@contextmanager
def _proxy(
    name: str, package: str, configuration: str, options: Callable[[Path], list[str]], upstream: int
) -> Iterator[int]:
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed; on Debian: apt install {package}")
    with short_directory() as directory:
        port = free_port()
        file = directory / "configuration"
        file.write_text(configuration.format(directory=directory, port=port, upstream=upstream))
        with (directory / "log").open("w") as log:
            process = subprocess.Popen([program, *options(file)], stdout=log, stderr=log)
        try:
            eventually(lambda: _listens(process, port, directory / "log"))
            yield port
        finally:
            process.terminate()
            process.wait(20)


def _listens(process: "subprocess.Popen[bytes]", port: int, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
