"""The internals of uvicorn that are used, by name: a new version that lacks one of them fails here first."""

import inspect
import re

import pytest
from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from meanwhile.api.whole_request import WholeRequest

METHODS = {
    HttpToolsProtocol: "connection_made connection_lost data_received eof_received on_message_begin on_header "
    "on_headers_complete on_body on_message_complete on_response_complete pause_writing resume_writing "
    "send_400_response shutdown _start_asgi_task",
    RequestResponseCycle: "run_asgi receive send",
    Server: "run handle_exit",
    Multiprocess: "run init_processes keep_subprocess_alive join_all handle_hup",
    Process: "start kill join",
}
ASSIGNED = {
    HttpToolsProtocol: "access_log connections cycle expect_100_continue flow headers limit_concurrency loop parser "
    "pipeline scope server_state tasks timeout_keep_alive transport url",
    RequestResponseCycle: "body disconnected keep_alive response_complete response_started scope",
    Server: "should_exit",
    ServerState: "default_headers total_requests",
    Multiprocess: "processes should_exit",
    Process: "child_conn process",
}


def names(of: dict[type, str]) -> list[tuple[type, str]]:
    return [(owner, name) for owner, listed in of.items() for name in listed.split()]


@pytest.mark.parametrize(("owner", "name"), names(METHODS))
def test_a_method_is_there(owner: type, name: str) -> None:
    assert callable(getattr(owner, name, None))


@pytest.mark.parametrize(("owner", "name"), names(ASSIGNED))
def test_an_attribute_is_set(owner: type, name: str) -> None:
    assert f"self.{name}" in inspect.getsource(owner)


def test_a_whole_request_has_what_uvicorn_reads_of_a_cycle_that_has_arrived() -> None:
    read = re.findall(r"(?:self\.|existing_)cycle\.(\w+)", inspect.getsource(HttpToolsProtocol))
    assert set(WholeRequest.__slots__) >= set(read) - {"more_body"}  # Which it only reads of one that has not.


def test_the_options_and_exit_codes_are_there() -> None:
    options = inspect.signature(Config).parameters
    used = "factory http limit_concurrency proxy_headers server_header timeout_graceful_shutdown timeout_keep_alive ws"
    assert set() == set(used.split()) - set(options)
    assert isinstance(STARTUP_FAILURE, int)
