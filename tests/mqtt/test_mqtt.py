"""``meanwhile mqtt`` as a process, a real Mosquitto, real clients."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import redis
from jinja2 import Template

from meanwhile.cli.commands import app
from tests.support.brokers import Bridge, Mosquitto, bridge, mosquitto
from tests.support.homes import Home
from tests.support.paths import VERSION_1
from tests.support.servers import eventually, free_port, meanwhile, short_directory, valkey


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with mosquitto() as broker, valkey() as server:
        environment = {"MEANWHILE_REDIS_URL": server.url, "MEANWHILE_MQTT_URL": broker.url}
        arguments = ("--sequence", "seq", "--publish", "averages", "--home-assistant")
        with bridge(*arguments, **environment) as running:
            yield Home(broker, running, server)


def test_the_topic_names_the_stream_and_the_payload_is_the_reading(home: Home) -> None:
    home.broker.publish(
        ("a/number", "21.5"),
        ("a/number", "22.5"),
        ("a/vector", "[1, 2]"),
        ("a/object", '{"t": 1, "u": [2]}'),
        ("a/posted", '{"values": [1, 2, 6]}'),
        ("a/odd topic/count", "7"),
        ("a/pack", '[{"bn": "urn:dev:1:", "n": "temp", "v": 3}, {"n": "door", "vb": true}]'),
    )
    home.settle()
    assert (2, 22.0) == (home.count("a/number"), home.average("a/number"))
    assert [1.0, 2.0] == home.average("a/vector")
    assert {"t": 1.0, "u": [2.0]} == home.average("a/object")
    assert (3, 3.0) == (home.count("a/posted"), home.average("a/posted"))
    assert 7.0 == home.average("a/odd~20topic/~63ount")
    assert 3.0 == home.average("urn:dev:1:temp")


def test_what_cannot_be_recorded_stops_nothing_and_is_logged_now_and_then(home: Home) -> None:
    bad: list[tuple[str, str | bytes]] = [("b/1", "on"), ("b/1", "[1]"), ("b/2", b"\xff\x00")]
    home.broker.publish(("b/1", "1"), *bad * 20, ("b/1", "3"))
    home.settle()
    assert (2, 2.0) == (home.count("b/1"), home.average("b/1"))
    assert 0 == home.count("b/2")
    assert 1 <= home.bridge.log.count("not recorded, from") <= 5


def test_one_of_another_shape_concerns_nobody_else(home: Home) -> None:
    home.broker.publish(("c/1", "1"))
    home.settle()
    home.broker.publish(("c/2", "5"), ("c/1", "[1, 2]"), ("c/1", "3"), ("c/3", "6"))
    home.settle()
    assert (2, 2.0) == (home.count("c/1"), home.average("c/1"))
    assert (1, 1) == (home.count("c/2"), home.count("c/3"))


def test_a_sequence_in_the_payload_counts_a_message_once(home: Home) -> None:
    messages = [("d/1", json.dumps({"value": 4**i, "seq": i})) for i in range(20)]
    home.broker.publish(*messages, *messages[-5:], *messages)
    home.settle()
    assert (20, (4**20 - 1) / 3 / 20) == (home.count("d/1"), home.average("d/1"))


def test_a_key_in_a_user_property_counts_a_message_once(home: Home) -> None:
    for key in ("gateway-7:1", "gateway-7:1", "gateway-7:2"):
        home.broker.publish(("e/1", "1"), key=key)
    home.broker.publish(("e/1", "1"), key="no key")
    home.settle()
    assert 2 == home.count("e/1")


def test_a_retained_message_of_before_is_not_counted_and_a_live_one_is(home: Home) -> None:
    home.broker.publish(("f/1", "5"), retain=True)
    home.settle()
    assert 1 == home.count("f/1")
    home.bridge.stop()
    home.bridge.start()
    home.settle()
    assert 1 == home.count("f/1")


def test_what_comes_while_it_is_away_waits_and_sigterm_ends_with_0(home: Home) -> None:
    assert 0 == home.bridge.stop(), home.bridge.log
    home.broker.publish(*[("g/1", "1")] * 300)
    home.bridge.start()
    home.settle()
    assert 300 == home.count("g/1")


def test_while_redis_is_away_nothing_is_acknowledged_and_nothing_lost(home: Home) -> None:
    home.server.kill()
    home.broker.publish(*[("h/1", "1")] * 300)
    time.sleep(0.5)
    home.server.start()
    home.settle()
    assert 300 == home.count("h/1")


def test_after_kill_9_of_the_broker_it_connects_again(home: Home) -> None:
    home.broker.publish(("i/1", "1"))
    home.settle()
    time.sleep(1.5)  # The broker saves its sessions once a second.
    before = home.bridge.log.count("subscribed to")
    home.broker.stop()
    home.broker.start()
    eventually(lambda: home.bridge.log.count("subscribed to") > before)
    assert home.bridge.log.rstrip().count("its session is still there") >= 1
    home.broker.publish(("i/1", "1"))
    home.settle()
    assert 2 == home.count("i/1")


def test_averages_are_published_with_what_home_assistant_needs_and_never_recorded(home: Home) -> None:
    home.broker.publish(("j/1", "1"), ("j/1", "2"), ("j/2", '{"t": 1, "u v": [2, 4]}'))
    home.settle()
    eventually(lambda: home.broker.retained("averages/j/1") == {"averages/j/1": "1.5"})
    eventually(lambda: home.broker.retained("averages/j/2").keys() == {"averages/j/2"})
    assert {"t": 1.0, "u v": [2.0, 4.0]} == json.loads(home.broker.retained("averages/j/2")["averages/j/2"])
    assert {"averages/$state": "online"} == home.broker.retained("averages/$state")
    eventually(lambda: [1, 3] == [len(configurations(home, stream)) for stream in ("j/1", "j/2")])
    (of_one,) = configurations(home, "j/1")
    assert "j/1" == of_one["name"]
    assert "value_template" not in of_one
    configs = [*map(json.loads, home.broker.retained("homeassistant/sensor/+/config").values())]
    templates = {config["value_template"] for config in configurations(home, "j/2")}
    assert {'{{ value_json["t"] }}', '{{ value_json["u v"][0] }}', '{{ value_json["u v"][1] }}'} == templates
    assert len(configs) == len({config["unique_id"] for config in configs})
    home.settle()
    assert None is home.state("averages/j/1")


def configurations(home: Home, stream: str) -> list[dict[str, Any]]:
    """The discovery messages of the sensors of a stream, for Home Assistant."""
    configs = map(json.loads, home.broker.retained("homeassistant/sensor/+/config").values())
    return [config for config in configs if config["state_topic"] == f"averages/{stream}"]


def attributes(home: Home, stream: str) -> dict[str, dict[str, Any]]:
    """The attributes of the sensors of a stream in Home Assistant, by the names of the sensors."""
    found: dict[str, dict[str, Any]] = {}
    for config in configurations(home, stream):
        published = home.broker.retained(config["json_attributes_topic"])
        if not published:
            return {}
        (text,) = published.values()
        template = Template(config.get("json_attributes_template", "{{ value }}"))
        found[config["name"]] = json.loads(template.render(value=text, value_json=json.loads(text)))
    return found


def test_the_latest_value_is_an_attribute_of_each_sensor(home: Home) -> None:
    at = [f"2026-01-01T00:00:0{second}.000Z" for second in range(4)]
    for stream, values in {
        "l/1": (1, 2, 4),
        "l/2": ([1, 2], [3, 4], [5, 0]),
        "l/3": ({"t u": 1, "v": [2]},) * 3,
    }.items():
        messages = [json.dumps({"value": value, "time": time}) for value, time in zip(values, at, strict=False)]
        home.broker.publish((stream, messages[0]), (stream, messages[2]), (stream, messages[1]))
    since = {"last_reading_at": at[2], "count": 3}
    eventually(lambda: attributes(home, "l/1") == {"l/1": since | {"latest": 4.0}})
    eventually(lambda: attributes(home, "l/2") == {"l/2 0": since | {"latest": 5.0}, "l/2 1": since | {"latest": 0.0}})
    eventually(
        lambda: attributes(home, "l/3") == {"l/3 t u": since | {"latest": 1.0}, "l/3 v 0": since | {"latest": 2.0}}
    )


@pytest.mark.parametrize("name", ["number", "array", "object"])
def test_the_latest_value_of_a_state_of_version_1_is_a_null_attribute(home: Home, name: str) -> None:
    with redis.Redis(unix_socket_path=str(home.server.socket)) as client:
        client.set(f"meanwhile:stream:m/{name}", (VERSION_1 / f"{name}.msgpack").read_bytes())
    eventually(lambda: bool(attributes(home, f"m/{name}")))
    assert all(one["latest"] is None and one["count"] >= 1 for one in attributes(home, f"m/{name}").values())


def test_a_stream_that_differs_only_in_its_latest_value_is_published_again(home: Home) -> None:
    def record(*values: int) -> None:
        messages = [json.dumps({"value": value, "time": "2026-01-01T00:00:00Z"}) for value in values]
        home.broker.publish(*[("n/1", message) for message in messages])
        is_published(values[-1])

    def is_published(latest: int) -> None:
        expected = {"n/1": {"latest": latest, "last_reading_at": "2026-01-01T00:00:00.000Z", "count": 2}}
        eventually(lambda: expected == attributes(home, "n/1"))

    with redis.Redis(unix_socket_path=str(home.server.socket)) as client:
        record(1, 2)
        before = client.get("meanwhile:stream:n/1")
        assert isinstance(before, bytes)
        client.delete("meanwhile:stream:n/1")
        record(2, 1)
        client.set("meanwhile:stream:n/1", before)
        is_published(2)


def test_a_deleted_stream_is_taken_off_the_broker(home: Home) -> None:
    home.broker.publish(("k/1", "1"))
    eventually(lambda: home.broker.retained("averages/k/1") == {"averages/k/1": "1.0"})
    eventually(lambda: {} != home.broker.retained("averages/k/1/$attributes"))
    with redis.Redis(unix_socket_path=str(home.server.socket)) as client:
        client.delete("meanwhile:stream:k/1")
    eventually(lambda: {} == home.broker.retained("averages/k/1"))
    eventually(lambda: {} == home.broker.retained("averages/k/1/$attributes"))


def test_the_last_will_says_offline_after_a_kill(home: Home) -> None:
    home.bridge.kill()
    eventually(lambda: {"averages/$state": "offline"} == home.broker.retained("averages/$state"))
    home.bridge.start()
    eventually(lambda: {"averages/$state": "online"} == home.broker.retained("averages/$state"))


def test_it_starts_before_the_broker_shows_who_it_is_and_speaks_tls() -> None:
    if which("openssl") is None:
        pytest.skip("openssl is not installed; on Debian: apt install openssl")
    with short_directory() as directory, valkey() as server, mosquitto() as made:
        made.stop()
        passwords, certificate, key = (directory / name for name in ("passwords", "certificate", "key"))
        subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "me", "it's:@/"], check=True, timeout=30)
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"),
                *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
            timeout=30,
        )
        more = f"certfile {certificate}\nkeyfile {key}\nallow_anonymous false\npassword_file {passwords}"
        broker = Mosquitto(directory, free_port(), more)
        environment = {
            "MEANWHILE_REDIS_URL": server.url,
            "MEANWHILE_MQTT_URL": f"mqtts://me:it's%3A%40%2F@127.0.0.1:{broker.port}",
            "MEANWHILE_MQTT_CA": str(certificate),
            "MEANWHILE_MQTT_TOPIC": "plant/+/temperature plant/+/pressure",
        }
        running = Bridge(directory, environment)
        running.start(wait=False)
        try:
            eventually(lambda: "no connection to the broker" in running.log, 30)
            assert running.process is not None
            assert None is running.process.poll()
            broker.start()
            eventually(lambda: "subscribed to 'plant/+/pressure'" in running.log)
            assert "subscribed to 'plant/+/temperature'" in running.log
        finally:
            assert 0 == running.stop(), running.log
            broker.stop()
        assert "it's" not in running.log


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "http://broker"), "--url: "),
        (("--url", "mqtt://"), "--url: "),
        (("--url", "mqtt://h/path"), "Expected mqtt://"),
        (("--url", "mqtt://h:99999"), "--url: Expected a host and a port"),
        (("--url", "mqtt://h:0"), "--url: Expected a host and a port from 1 to 65535."),
        (("--url", f"mqtt://u:{'p' * 65_536}@h"), "--url: Expected a user and a password of at most 65,535 bytes"),
        (("--url", "mqtt://u%00:p@h"), "--url: Expected a user and a password of at most 65,535 bytes"),
        (("--username", "\u00e9" * 32_768), "--username: Expected text of at most 65,535 bytes in UTF-8"),
        (("--password", "p" * 65_536), "--password: Expected text of at most 65,535 bytes in UTF-8"),
        (("--topic", "a" * 65_536), "--topic: Expected text of at most 65,535 bytes in UTF-8"),
        (("--topic", "a\0"), "--topic: Expected text of at most 65,535 bytes in UTF-8, without NUL."),
        (("--client-id", "a\0"), "--client-id: Expected text"),
        (("--publish", "a" * 65_001), "--publish: Expected text of at most 65,000 bytes in UTF-8"),
        (("--publish", "a\0"), "--publish: Expected text"),
        (("--publish", "a+b"), "--publish: "),
        (("--publish", "a/#"), "--publish: "),
        (("--publish", "$SYS"), "--publish: Expected a topic without + and #, without $ at the start"),
        (("--discovery", "#"), "--discovery: Expected a topic without + and #"),
        (("--discovery", "a+b"), "--discovery: "),
        (("--discovery", "a/"), "--discovery: "),
        (("--discovery", "a" * 65_001), "--discovery: Expected text of at most 65,000 bytes in UTF-8"),
        (("--in-flight", "0"), "--in-flight: "),
        (("--stream-prefix", "a b"), "--stream-prefix: "),
        (("--client-id", ""), "--client-id: "),
        (("--topic", "$share"), "--topic: Expected a shared subscription to have a group and a topic"),
        (("--topic", "$share/g"), "--topic: Expected a shared subscription to have a group and a topic"),
        (("--topic", "$share/g/"), "--topic: Expected a shared subscription to have a group and a topic"),
        (("--topic", "$share//x"), "--topic: Expected a shared subscription to have a group and a topic"),
        (("--shutdown-timeout", "3601"), "--shutdown-timeout: "),
    ],
)
def test_what_makes_no_sense_is_said(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["mqtt", *arguments])
    assert ended.value.code in (1, 2)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ca", "other"), "--ca: Expected {directory}/other to contain CA certificates, in PEM format."),
        (("--cert", "other"), "--cert: Expected {directory}/other to contain a certificate, in PEM format."),
        (("--cert", "cert"), "--cert: Expected {directory}/cert to contain the private key of the certificate"),
        (("--cert", "cert", "--key", "other"), "--key: Expected {directory}/other to contain the private key of"),
        (("--cert", "cert", "--key", "second"), "--key: Expected {directory}/second to contain the private key of"),
        (("--key", "key"), "--key: Expected --cert, too"),
    ],
)
def test_a_file_that_tls_cannot_use_is_refused_with_its_option(
    options: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if which("openssl") is None:
        pytest.skip("openssl is not installed; on Debian: apt install openssl")
    (tmp_path / "other").write_text("not a certificate\n")
    for cert, key in (("cert", "key"), ("another", "second")):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test"),
                *("-keyout", str(tmp_path / key), "-out", str(tmp_path / cert)),
            ],
            capture_output=True,
            check=True,
        )
    arguments = [one if one.startswith("--") else str(tmp_path / one) for one in options]
    with pytest.raises(SystemExit) as ended:
        app(["mqtt", "--url", "mqtts://127.0.0.1:1", *arguments])
    assert 1 == ended.value.code
    assert said.format(directory=tmp_path) in capsys.readouterr().err


def test_a_journal_that_cannot_be_made_is_said() -> None:
    ended = meanwhile("mqtt", "--journal", "/proc/nothing/journal")
    assert 1 == ended.returncode
    assert "The journal /proc/nothing/journal cannot be used" in ended.stderr
    assert "Traceback" not in ended.stderr
