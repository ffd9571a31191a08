"""Replies of other servers, and of proxies in front of the service: each command says what it expected, and fails."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from meanwhile.cli import reply_checks
from meanwhile.cli.commands import app
from meanwhile.cli.http_client import Client, Unsent

HTML = {"Content-Type": "text/html"}
TEXT = {"Content-Type": "text/plain; charset=utf-8"}
EVENTS = {"Content-Type": "text/event-stream"}
COMMANDS = {
    "send": ("send", "{file}"),
    "average": ("average", "a"),
    "watch": ("watch", "--once"),
    "demo": ("demo", "--seconds", "1"),
}
STATE = (
    '{"stream": "a", "count": 1, "average": 1.5, "minimum": 1, "maximum": null, "standard_deviation": null, '
    '"last_reading_at": "2026-01-01T00:00:00Z"}'
)


@contextmanager
def another_server(status: int, headers: Mapping[str, str], body: bytes) -> Iterator[str]:
    """The URL of a server that gives the same reply to every request."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = reply  # noqa: N815  # The names that http.server looks for.

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run(command: str, url: str, directory: Path) -> int:
    """Runs a command to its end and returns its status."""
    file = directory / "file.csv"
    file.write_text("v\n1\n2\n")
    with pytest.raises(SystemExit) as ended:
        app([one.format(file=file) for one in COMMANDS[command]] + ["--url", url])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (HTML, b"<html>"),
        ({}, b"{}"),
        (HTML, b"[1]"),
        (TEXT, b"21.5\n\x1b[2Jevil"),
        (TEXT, b"[" * 200_000),
        (TEXT, b"9" * 5_000),
        (TEXT, b"NaN"),
        (TEXT, b"true"),
        (TEXT, b"{}"),
        ({"Content-Encoding": "gzip"}, b"xx"),
        (EVENTS, b"event: state\ndata: nope\n\n"),
        (EVENTS, b'event: state\ndata: {"a": 1}\n\n'),
        (EVENTS, b"event: deleted\ndata: {}\n\n"),
        (EVENTS, b"event: ready\ndata: {}\n\n"),
        (EVENTS, b"event: ready\ndata: [1]\n\n"),
    ],
)
def test_what_is_not_from_the_service_is_not_taken_for_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, headers: Mapping[str, str], body: bytes
) -> None:
    with another_server(200, headers, body) as url:
        assert 1 == run(command, url, tmp_path)
        printed = capsys.readouterr()
    assert "" == printed.out
    assert printed.err.startswith("Expected ")
    assert printed.err.endswith(f"{url} may not be the URL of a Meanwhile service.\n")
    assert 1 == printed.err.count("\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_redirection_is_not_from_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with another_server(302, {"Location": "/login"}, b"") as url:
        assert 1 == run(command, url, tmp_path)
    printed = capsys.readouterr()
    assert ("", True) == (printed.out, "Expected a reply without a redirection (302). " in printed.err)


@pytest.mark.parametrize(
    "conflicts", [b"5", b"null", b'"v"', b"[5]", b"[{}]", b'[{"stream": "zzz"}]', b'[{"stream": []}]']
)
def test_conflicts_of_other_streams_are_not_taken_for_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], conflicts: bytes
) -> None:
    with another_server(409, {}, b'{"conflicts": %b}' % conflicts) as url:
        assert 1 == run("send", url, tmp_path)
    assert "Expected the names of streams in conflict. " in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_control_characters_of_a_reply_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with another_server(500, {}, b'{"title": "a\\u001b[31m\\u009b", "detail": 5}') as url:
        assert 1 == run(command, url, tmp_path)
    printed = capsys.readouterr()
    assert "500: a\ufffd[31m\ufffd" in printed.err
    assert "\x1b" not in printed.out + printed.err


def test_the_average_of_an_object_is_printed_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with another_server(200, TEXT, '{"a\x9b": [1.5, null]}'.encode()) as url:
        assert 0 == run("average", url, tmp_path)
    assert '{"a\ufffd": [1.5, null]}\n' == capsys.readouterr().out


@pytest.mark.parametrize(
    "spoiled",
    [
        STATE.replace("1.5", '"x"'),
        STATE.replace("1.5", "true"),
        STATE.replace("1.5", "1" + "0" * 400),
        STATE.replace("1.5", "[]"),
        STATE.replace('"count": 1', '"count": -1'),
        STATE.replace('"count": 1', '"count": true'),
        STATE.replace("2026", "x"),
        STATE.replace("00Z", "00"),
        STATE.replace('"a"', '"a b"'),
        STATE.replace('"a"', "[]"),
        STATE.replace("{", '{"latest": "x", '),
        STATE.replace("{", '{"latest": [true], '),
    ],
)
def test_a_state_is_checked_before_it_is_shown(spoiled: str) -> None:
    for latest in ("", '"latest": null, ', '"latest": [1, 2], '):  # Earlier versions do not send it.
        assert "a" == reply_checks.event_data("state", STATE.replace("{", "{" + latest))["stream"]
    with pytest.raises(reply_checks.Unexpected):
        reply_checks.event_data("state", spoiled)


def test_an_event_of_a_later_version_is_left_out_and_an_early_end_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = b"event: later\ndata: nope\n\n"
    with another_server(200, EVENTS, later + b'event: ready\ndata: {"streams": 0, "resumed": false}\n\n') as url:
        assert 0 == run("watch", url, tmp_path)
        assert "no streams yet" in capsys.readouterr().out
    with another_server(200, EVENTS, later) as url:
        assert 1 == run("watch", url, tmp_path)
        assert "The connection ended before all streams were there." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 1, 1),
        ("nan", 1, 1),
        ("-5", 1, 1),
        ("inf", 1, 1),
        ("\u0663".encode().decode("latin-1"), 1, 1),
        ("99999999999999", 60, 60),
        ("9" * 400, 60, 60),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1, 1),
        ("Wed, 21 Oct 9015 07:28:00 GMT", 60, 60),
        ("Wed, 99 Oct 2015 07:28:00 GMT", 1, 1),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", 1, 1),
    ],
)
def test_any_retry_after_is_understood_and_bounded(retry_after: str, least: float, most: float) -> None:
    pauses: list[float] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, headers=[(b"Retry-After", retry_after.encode("latin-1"))])

    with Client("http://meanwhile.test", sleep=pauses.append) as client:
        client._http.close()
        client._http = httpx.Client(base_url="http://meanwhile.test", transport=httpx.MockTransport(refuse))
        with pytest.raises(Unsent, match="503"):
            client.send({"v": [1.0]}, "send-r:0")
    assert 59 == len(pauses)
    assert all(least <= pause <= most for pause in pauses)
