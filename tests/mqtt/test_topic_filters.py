"""Filters that overlap: of the copies that a broker sends, one counts."""

import pytest

from meanwhile.mqtt.topic_filters import Filters
from tests.support.brokers import bridge, mosquitto
from tests.support.homes import Home
from tests.support.servers import valkey

TOPICS = ("--topic", "settle", "--topic", "ov/#", "--topic", "ov/+/temp", "--topic", "$share/group/ov/1/temp")


def test_a_message_that_several_filters_match_counts_once_at_every_qos() -> None:
    """As in eclipse/mosquitto#2555, home-assistant/core#169604 and node-red/node-red#5962."""
    with mosquitto() as broker, valkey() as server:
        environment = {"MEANWHILE_REDIS_URL": server.url, "MEANWHILE_MQTT_URL": broker.url}
        with bridge(*TOPICS, **environment) as running:
            home = Home(broker, running, server)
            home.settle()
            for qos in (0, 1, 2):
                broker.publish(*[("ov/1/temp", "1"), ("ov/2/temp", "1"), ("ov/2/x", "1")] * 6, qos=qos)
            broker.publish(("ov/1/temp", "1"), ("ov/2/temp", "1"), retain=True)
            home.settle()
            running.stop()
            broker.publish(*[("ov/1/temp", "1")] * 10)
            running.start()
            home.settle()
            assert (29, 19, 18) == (home.count("ov/1/temp"), home.count("ov/2/temp"), home.count("ov/2/x"))


@pytest.mark.parametrize(
    ("topics", "overlap"),
    [
        (["a/#", "a/+/b"], True),
        (["a/#", "a"], True),
        (["+/b", "a/+"], True),
        (["a/b", "a/b/c"], False),
        (["a/+", "b/#"], False),
        (["#", "$SYS/x"], False),
        (["$share/g/a/#", "a/b"], True),
        (["a", "a"], False),
    ],
)
def test_filters_that_can_match_one_topic_overlap(topics: list[str], overlap: bool) -> None:
    assert overlap == (Filters(topics).overlap() is not None)


def test_of_several_copies_the_one_for_the_first_plain_filter_counts() -> None:
    filters = Filters(["$share/g/a/#", "a/#", "a/+"])
    shared, many, one = (filters.identifiers[topic] for topic in ("$share/g/a/#", "a/#", "a/+"))
    assert [True, False, True] == [filters.is_copy("a/b", [identifier]) for identifier in (shared, many, one)]
    assert not filters.is_copy("a/b", [one, many])
    assert not filters.is_copy("a/b", [])
    assert not filters.is_copy("a/b", [1])


def test_what_this_process_publishes_is_its_own_whatever_the_filters() -> None:
    filters = Filters(["#"], own=["averages", "homeassistant"])
    own = ["averages/a", "homeassistant/sensor/x/config", "averages/$state"]
    others = ["averages", "averages2/a", "a/averages/b"]
    assert [True] * 3 + [False] * 3 == [filters.is_own(topic) for topic in own + others]
    assert not Filters(["#"]).is_own("averages/a")
