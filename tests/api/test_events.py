"""Event streams: what there is, each change, and what becomes of those who do not listen."""

import signal
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from meanwhile.api.key_file import key_entry, new_secret
from tests.support import calls
from tests.support.event_stream import post, watching
from tests.support.running_service import guarded
from tests.support.servers import Service, Valkey, eventually, service, valkey


@pytest.fixture(scope="module")
def running(shared_valkey: Valkey) -> Iterator[Service]:
    with service(MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=f"test-{uuid.uuid4().hex}") as started:
        yield started


@pytest.fixture
def here() -> str:
    """The start of names that no other test has."""
    return f"t{uuid.uuid4().hex}/"


def test_a_stream_is_given_at_once_and_at_each_change(running: Service, here: str) -> None:
    post(running.url, here + "a", 1.0, 2.0)
    with watching(running.url, f"/v1/streams/{here}a/events?interval=0.1") as events:
        assert "text/event-stream; charset=utf-8" == events.reply.headers["content-type"]
        assert "no-store" == events.reply.headers["cache-control"]
        event, data = events.next()
        known = calls.get(f"{running.url}/v1/streams/{here}a").json()
        assert ("state", known) == (event, {name: data[name] for name in data if name != "state_bytes"})
        assert 20 < data["state_bytes"] < 200
        assert ("ready", {"streams": 1, "resumed": False}) == events.next()
        post(running.url, here + "a", 6.0)
        event, data = events.next()
        assert ("state", 3, 3.0, 6.0) == (event, data["count"], data["average"], data["latest"])


def test_an_unknown_stream_has_no_events_of_its_own_but_can_be_waited_for(running: Service, here: str) -> None:
    with watching(running.url, f"/v1/streams/{here}a/events") as events:
        assert 404 == events.reply.status_code
    with watching(running.url, f"/v1/events?stream={here}a&stream={here}b&interval=0.1") as events:
        found, ready = events.until_ready()
        assert {here + "a": "deleted", here + "b": "deleted"} == {name: data["event"] for name, data in found.items()}
        assert {"streams": 0, "resumed": False} == ready
        post(running.url, here + "b", 1.0)
        assert here + "b" == events.next()[1]["stream"]


def test_after_a_silence_of_redis_new_streams_are_looked_for_as_often_as_before() -> None:
    with (
        valkey() as server,
        service(MEANWHILE_REDIS_URL=server.url) as running,
        watching(running.url, "/v1/events?prefix=hall/&interval=0.2") as events,
    ):
        events.until_ready()
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        eventually(lambda: calls.get(f"{running.url}/readyz").status_code == 503)
        server.process.send_signal(signal.SIGCONT)
        post(running.url, "hall/lux", 1.0)
        assert "hall/lux" == events.next()[1]["stream"]


def test_a_prefix_gives_its_streams_later_ones_and_deletions(running: Service, here: str) -> None:
    post(running.url, here + "in/a", 1.0)
    post(running.url, here + "out", 1.0)
    with watching(running.url, f"/v1/events?prefix={here}in/&interval=0.2") as events:
        found, ready = events.until_ready()
        assert {here + "in/a"} == found.keys()
        assert {"streams": 1, "resumed": False} == ready
        post(running.url, here + "in/b", [1.0, 2.0])
        event, data = events.next()
        assert ("state", here + "in/b") == (event, data["stream"])
        assert 0 == events.comments  # It comes by itself, before the next comment does.
        calls.delete(f"{running.url}/v1/streams/{here}in/a")
        assert ("deleted", {"stream": here + "in/a"}) == events.next()
        post(running.url, here + "in/a", 5.0)
        event, data = events.next()
        assert ("state", here + "in/a", 1) == (event, data["stream"], data["count"])


def test_changes_by_another_process_are_seen(shared_valkey: Valkey, running: Service, here: str) -> None:
    prefix = running.environment["MEANWHILE_PREFIX"]
    with service(MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=prefix) as other:
        post(running.url, here + "a", 1.0)
        with watching(other.url, f"/v1/events?prefix={here}&interval=0.1") as events:
            events.until_ready()
            post(running.url, here + "a", 3.0)
            assert 2 == events.next()[1]["count"]


def test_no_stream_is_given_twice_in_an_interval(shared_valkey: Valkey, prefix: str) -> None:
    with service(MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=prefix) as running:
        post(running.url, "a", 1.0)
        path = "/v1/streams/a/events"
        with (
            watching(running.url, f"{path}?interval=0.1") as often,
            watching(running.url, f"{path}?interval=3600") as seldom,
        ):
            assert ["a"] == list(often.until_ready()[0])
            assert ["a"] == list(seldom.until_ready()[0])
            for count in (2, 3, 4):
                post(running.url, "a", 1.0)
                assert count == often.next()[1]["count"]
            running.stop()
            with pytest.raises(EOFError):
                seldom.next()


def test_who_comes_back_gets_what_changed_meanwhile(running: Service, here: str) -> None:
    for name in "abc":
        post(running.url, here + name, 1.0)
    path = f"/v1/events?prefix={here}&interval=0.1"
    with watching(running.url, path) as events:
        assert 3 == len(events.until_ready()[0])
    post(running.url, here + "b", 2.0)
    with watching(running.url, path, headers={"Last-Event-ID": events.last_id}) as later:
        found, ready = later.until_ready()
        assert {here + "b": 2} == {name: data["count"] for name, data in found.items()}
        assert {"streams": 3, "resumed": True} == ready
    for stranger in ("0123abcd-7", "nonsense", ""):
        with watching(running.url, path, headers={"Last-Event-ID": stranger}) as later:
            found, ready = later.until_ready()
            assert 3 == len(found)
            assert not ready["resumed"]
    calls.delete(f"{running.url}/v1/streams/{here}c")
    with watching(running.url, path, headers={"Last-Event-ID": events.last_id}) as later:
        found, ready = later.until_ready()
        events_of = {name.removeprefix(here): data["event"] for name, data in found.items()}
        assert {"a": "state", "b": "state", "c": "deleted"} == events_of
        assert not ready["resumed"]


@pytest.mark.parametrize("interval", ["0.01", "0", "-1", "nan", "inf", "1e3", "x", "", "3601", "1&interval=1"])
def test_an_interval_has_to_be_one(running: Service, interval: str) -> None:
    with watching(running.url, f"/v1/events?interval={interval}") as events:
        assert 422 == events.reply.status_code
        assert "interval" in events.reply.json()["detail"]


@pytest.mark.parametrize("query", ["stream=a&prefix=b", "stream=a//b", "stream=", "prefix=%2A", "prefix=a&prefix=b"])
def test_what_to_watch_has_to_be_clear(running: Service, query: str) -> None:
    with watching(running.url, f"/v1/events?{query}") as events:
        assert 422 == events.reply.status_code


def test_head_of_an_event_stream_ends(running: Service) -> None:
    reply = httpx.head(f"{running.url}/v1/events", timeout=10)
    assert (200, "text/event-stream; charset=utf-8") == (reply.status_code, reply.headers["content-type"])


def test_subscribers_are_capped_and_their_places_come_free(shared_valkey: Valkey) -> None:
    with service(
        MEANWHILE_REDIS_URL=shared_valkey.url,
        MEANWHILE_PREFIX=f"test-{uuid.uuid4().hex}",
        MEANWHILE_MAX_SUBSCRIBERS="1",
    ) as running:
        with watching(running.url, "/v1/events") as events:
            events.until_ready()
            with watching(running.url, "/v1/events") as refused:
                assert 503 == refused.reply.status_code
                assert "10" == refused.reply.headers["retry-after"]
                assert refused.reply.json()["type"].endswith(":too-many-subscribers")

        def is_free() -> bool:
            with watching(running.url, "/v1/events") as again:
                return again.reply.status_code == 200

        eventually(is_free)


def test_a_key_watches_what_it_reaches_and_no_more(shared_valkey: Valkey, tmp_path: Path) -> None:
    reader, writer = new_secret(), new_secret()
    keys = tmp_path / "keys.toml"
    entries = key_entry("r", ["read"], "in/", reader) + "\n" + key_entry("w", ["write"], "", writer) + "\n"
    with guarded(shared_valkey, entries, keys) as running:
        allowed, other = {"X-API-Key": reader}, {"X-API-Key": writer}
        for name in ("in/a", "out/a"):
            reply = calls.post(f"{running.url}/v1/streams/{name}/readings", json={"value": 1}, headers=other)
            assert 200 == reply.status_code
        for path, headers, status in [
            ("/v1/events", {}, 401),
            ("/v1/events", other, 403),
            ("/v1/events?prefix=", allowed, 403),
            ("/v1/events?prefix=out/", allowed, 403),
            ("/v1/events?stream=in/a&stream=out/a", allowed, 403),
            ("/v1/streams/out/a/events", allowed, 403),
            ("/v1/streams/in/a/events", allowed, 200),
        ]:
            with watching(running.url, path, headers=headers) as events:
                assert status == events.reply.status_code, path
        with watching(running.url, "/v1/events?interval=0.1", headers=allowed) as events:
            assert {"in/a"} == events.until_ready()[0].keys()
            keys.write_text(key_entry("w", ["write", "read"], "", writer) + "\n")
            assert running.process is not None
            running.process.send_signal(1)
            eventually(lambda: "API keys in use: 1" in running.log)
            with pytest.raises(EOFError):
                events.next()


@pytest.mark.parametrize("path", ["/v1/events", "/v1/events?stream=in/a", "/v1/streams/in/a/events"])
@pytest.mark.parametrize(
    "text",
    ["", key_entry("r", ["write"], "in/", "mw_r"), key_entry("r", ["read"], "in/a/", "mw_r")],
    ids=["nothing", "another scope", "a narrower prefix"],
)
def test_an_event_stream_ends_when_its_key_no_longer_allows_it(
    shared_valkey: Valkey, tmp_path: Path, path: str, text: str
) -> None:
    """Within a second, though nothing changes and no comment is due."""
    keys = tmp_path / "keys.toml"
    with guarded(shared_valkey, key_entry("r", ["read", "write"], "in/", "mw_r"), keys) as running:
        allowed = {"X-API-Key": "mw_r"}
        calls.post(f"{running.url}/v1/streams/in/a/readings", json={"value": 1}, headers=allowed).raise_for_status()
        with watching(running.url, path, headers=allowed) as events:
            assert {"in/a"} == events.until_ready()[0].keys()
            keys.write_text(text)
            assert running.process is not None
            running.process.send_signal(signal.SIGHUP)
            with pytest.raises(EOFError):
                events.next()
            assert 0 == events.comments


@pytest.mark.parametrize("workers", ["1", "2"])
def test_shutdown_ends_event_streams_at_once(shared_valkey: Valkey, workers: str) -> None:
    with service(
        "--workers", workers, MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=f"test-{uuid.uuid4().hex}"
    ) as running:
        post(running.url, "a", 1.0)
        with watching(running.url, "/v1/events") as first, watching(running.url, "/v1/streams/a/events") as second:
            first.until_ready()
            second.until_ready()
            assert 0 == running.stop()
            for events in (first, second):
                with pytest.raises(EOFError):
                    events.next()
        assert "Cancel" not in running.log
        assert "Traceback" not in running.log


def test_one_who_does_not_read_disturbs_nobody_and_shutdown_neither(shared_valkey: Valkey) -> None:
    with service(MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=f"test-{uuid.uuid4().hex}") as running:
        for name in range(20):
            post(running.url, f"wide/{name}", [float(one) for one in range(1_000)])
        host, port = running.url.removeprefix("http://").split(":")
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect((host, int(port)))
            stalled.sendall(b"GET /v1/events?interval=0.1 HTTP/1.1\r\nHost: x\r\n\r\n")
            with watching(running.url, "/v1/events?interval=0.1&prefix=wide/1") as events:
                events.until_ready()
                for turn in range(20):
                    post(running.url, "wide/1", [float(turn)] * 1_000)
                    assert turn + 2 == events.next()[1]["count"]
            assert 0 == running.stop()
        assert "Cancel" not in running.log
