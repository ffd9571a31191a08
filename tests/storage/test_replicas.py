"""Replicas: what is known of a write that too few of them have received, and of a server that has too few."""

from collections.abc import Iterator

import pytest

from meanwhile.core.shapes import NUMBER
from meanwhile.core.state import State
from meanwhile.core.summary import summarize
from meanwhile.storage.redis_checks import NotReady, RedisChecks
from meanwhile.storage.redis_client import OutcomeUnknown, connect
from meanwhile.storage.store import Store
from tests.support.keys import soon
from tests.support.servers import Valkey, valkey

ONE = State(NUMBER, summarize([1.0], 1, 0, 0))


@pytest.fixture
def own() -> Iterator[Valkey]:
    """A server that this test may maltreat."""
    with valkey() as server:
        yield server


async def test_a_refusal_of_wait_does_not_mean_that_nothing_was_recorded(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        await operator.execute_command("ACL", "SETUSER", "default", "-wait")  # type: ignore[no-untyped-call]  # theirs
        store = Store(redis, "p", replicas=1)
        with pytest.raises(OutcomeUnknown):
            await store.commit([{"s": ONE}], soon())
        assert [ONE] == await store.read(["s"], soon())


async def test_while_the_server_refuses_writes_for_lack_of_replicas_the_service_is_not_ready(own: Valkey) -> None:
    async with connect(own.url) as redis:
        checks = RedisChecks(redis, "meanwhile", "fsync", strict=False)
        await checks.check(soon())
        await redis.config_set("min-replicas-to-write", 1)
        with pytest.raises(NotReady, match="NOREPLICAS"):
            await checks.check(soon())
        assert ["writes"] == list(checks.problems)
        await redis.config_set("min-replicas-to-write", 0)
        await checks.check(soon())
        assert {} == checks.problems
