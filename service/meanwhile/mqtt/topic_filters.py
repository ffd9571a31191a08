"""Topic filters: which of several copies of a message is recorded if they overlap, and what no filter brings in.

A broker may send a message once for each of our filters that matches its topic (MQTT 5, 3.3.4), and Mosquitto does. The
copies are messages like any others, each with a packet identifier, so only the *subscription identifier* tells them
apart. Each filter has one, computed from its text, so that it is the same after a restart; and of the filters that
match a topic, only the first is responsible for it. A copy is recorded if it is for that filter. A broker that sends
one copy for several filters lists their identifiers, and that copy is recorded, too.

Filters of shared subscriptions come after all others: the broker sends their messages to one member of the group, and
those of a plain filter to every subscriber.

A filter may match topics to which this process publishes itself, as ``#`` does. What comes back from there must not be
recorded.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b

from paho.mqtt.client import topic_matches_sub

_MAX_IDENTIFIER = 268_435_455


class Filters:
    """The filters ``topics``, to which this process subscribes; ``identifiers`` has the subscription identifiers.

    ``own`` are the topics below which this process publishes.
    """

    def __init__(self, topics: Sequence[str], own: Sequence[str] = ()) -> None:
        self._own = tuple([f"{topic}/" for topic in own])
        self.identifiers: dict[str, int] = {}
        for topic in sorted(topics, key=is_shared):
            if topic in self.identifiers:
                continue
            identifier = 1 + int.from_bytes(blake2b(topic.encode(), digest_size=8).digest()) % _MAX_IDENTIFIER
            while identifier in self.identifiers.values():
                identifier = 1 + identifier % _MAX_IDENTIFIER
            self.identifiers[topic] = identifier
        self._known = frozenset(self.identifiers.values())

    def is_own(self, topic: str) -> bool:
        """Whether this process publishes to a topic."""
        return topic.startswith(self._own)

    def is_copy(self, topic: str, identifiers: Collection[int]) -> bool:
        """Whether a delivery for these subscription identifiers is a copy of one for another filter.

        It is not if it is for an unknown filter: the message was then sent to an earlier process, with other filters.
        """
        if len(self._known) == 1 or self._known.isdisjoint(identifiers):
            return False
        for pattern, identifier in self.identifiers.items():
            if topic_matches_sub(unshared(pattern), topic):
                return identifier not in identifiers
        return False

    def overlap(self) -> tuple[str, str] | None:
        """Two filters that one topic can match; None if there are none."""
        patterns = list(self.identifiers)
        for place, one in enumerate(patterns):
            for other in patterns[place + 1 :]:
                if _can_meet(unshared(one).split("/"), unshared(other).split("/")):
                    return one, other
        return None


def is_shared(topic: str) -> bool:
    """Whether this is the filter of a shared subscription."""
    return topic.startswith("$share/")


def unshared(topic: str) -> str:
    """The filter without what makes it shared; topics are matched by that.

    >>> unshared("$share/group/a/#"), unshared("a/#")
    ('a/#', 'a/#')
    """
    return topic.split("/", 2)[2] if is_shared(topic) and topic.count("/") > 1 else topic


def _can_meet(one: Sequence[str], other: Sequence[str]) -> bool:
    if one[0] != other[0] and (one[0].startswith("$") or other[0].startswith("$")):
        return False  # A wildcard at the start matches no topic that starts with a dollar.
    for left, right in zip(one, other, strict=False):
        if "#" in (left, right):
            return True
        if left != right and "+" not in (left, right):
            return False
    longer = max(one, other, key=len)
    return len(one) == len(other) or longer[min(len(one), len(other))] == "#"
