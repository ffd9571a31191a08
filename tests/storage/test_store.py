"""What the store promises: the form of a state, groups that stand or fall, writes that are sent once, and the listing.

Everything runs against real servers. One thing here is not a Valkey: ``peer``, a socket that greets a client as a
server would, takes one write and then dies, or refuses it with a given error. It stands for a server that dies at the
worst moment, which a real one cannot be made to do between two bytes, and it counts what reached it. It knows no
command, keeps nothing and so can never stand in for Redis. What a real server can be made to do (be killed, stopped,
full, read-only, busy) is done to a real one, of the test's own.
"""

import asyncio
import random
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError

from meanwhile.core.idempotency_keys import Key
from meanwhile.core.readings import Limits, collect
from meanwhile.core.shapes import NUMBER, Value, shape_of
from meanwhile.core.state import State, Unreadable, decode, encode
from meanwhile.storage.commit_reply import Rejection, RejectReason
from meanwhile.storage.redis_client import OutcomeUnknown, StoreUnavailable, connect
from meanwhile.storage.store import Store
from tests.support.clock import Clock
from tests.support.peers import peer
from tests.support.servers import Valkey, eventually, valkey
from tests.support.states import with_checksum
from tests.support.summaries import summary_of

pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode

ONE = State(NUMBER, summary_of([[1.0]], 5, 5))
PAIR = State(shape_of([1.0, 1.0]), summary_of([[1.0], [1.0]], 5, 5))


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def state(*values: Value, at: int = 0) -> State:
    readings = collect(values, at, at, Limits())
    return State(readings.shape, readings.summarize())


async def count(store: Store, name: str) -> int:
    (found,) = await store.read([name], soon())
    assert not isinstance(found, Unreadable)
    return 0 if found is None else found.summary.count


# The form of a state ---------------------------------------------------------------------------------------------

doubles = st.floats(1e-140, 1e140) | st.floats(-1e140, -1e-140) | st.just(0.0)
member_names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)
members = doubles | st.lists(doubles, min_size=1, max_size=3)
values: st.SearchStrategy[Value] = members | st.dictionaries(member_names, members, min_size=1, max_size=3)


@given(value=values, times=st.tuples(st.integers(-(10**13), 10**13), st.integers(0, 10**13)))
def test_decode_is_the_inverse_of_encode(value: Value, times: tuple[int, int]) -> None:
    readings = collect([value, value], times[0], times[0] + times[1], Limits())
    written = State(readings.shape, readings.summarize())

    assert repr(written) == repr(decode(encode(written)))


def test_a_stored_state_is_the_documented_array() -> None:
    written = State(shape_of({"b": 2.5, "a": [0.1, 4.0]}), summary_of([[0.1, 0.2], [4.0, 4.0], [2.5, 3.5]], 7, 9))

    assert [
        *(2, '{"a":2,"b":0}', 2, 7, 9, [0.2, 4.0, 3.5], [0.1, 4.0, 2.5], [0.2, 4.0, 3.5]),
        *(-2, [0xCCCCCE00, 0x4CCCCCCC, 0, 0, 0, 8, 0, 0, 6]),
        *(written.summary.squares.low, list(written.summary.squares.limbs)),
    ] == unpack(encode(written)[:-8])


def test_a_stored_state_ends_with_the_documented_checksum() -> None:
    assert with_checksum(encode(PAIR)[:-8]) == encode(PAIR)


FOREIGN = {
    "nothing": b"",
    "text": b"hello",
    "JSON": b'{"count": 1}',
    "garbage": b"\xc1\xff\x00\x91",
    "a number": pack(1),
    "a map": pack({1: 1}),
    "nested too deeply": b"\x91" * 20_000,
    "more promised than there is": b"\xdd\xff\xff\xff\xff",
    "version 3": with_checksum(pack([3, *unpack(encode(ONE)[:-8])[1:]])),
    "version 1 with the array of version 2": pack([1, *unpack(encode(ONE)[:-8])[1:]]),
    "a state cut short": encode(ONE)[:-1],
    "a state and more": encode(ONE) + b"\x00",
    "a state without its checksum": encode(ONE)[:-8],
    "only a checksum": with_checksum(b""),
    "another program's array": pack([1, "foreign"]),
    "another program's numbers": pack([1, 5]),
    "only a version": pack([1]),
    "only a shape": pack([1, ""]),
    "a shape that is none": pack([1, "[1]", 1, 5, 5, [1.0], [1.0], [[1.0]], [[1.0]]]),
    "no component": pack([1, "", 1, 5, 5, [], [], [], []]),
    "too few components": pack([1, "", 1, 5, 5, [1.0], [1.0], [[1.0]], []]),
    "text for a number": pack([1, "", 1, 5, 5, [1.0], [1.0], [["x"]], [[1.0]]]),
    "infinity": pack([1, "", 1, 5, 5, [1.0], [1.0], [[float("inf")]], [[1.0]]]),
    "NaN": pack([1, "", 1, 5, 5, [1.0], [1.0], [[1.0]], [[float("nan")]]]),
    "a sum above the maximum": pack([1, "", 1, 5, 5, [1.0], [1.0], [[2.0]], [[4.0]]]),
    "squares that are too small": pack([1, "", 1, 5, 5, [1.0], [1.0], [[1.0]], [[0.5]]]),
    "a count of zero": pack([1, "", 0, 5, 5, [1.0], [1.0], [[1.0]], [[1.0]]]),
    "text for a count": pack([1, "", "x", 5, 5, [1.0], [1.0], [[1.0]], [[1.0]]]),
    "half a reading": pack([1, "", 1.5, 5, 5, [1.0], [1.0], [[1.0]], [[1.0]]]),
    "half a millisecond": pack([1, "", 1, 5, 5.5, [1.0], [1.0], [[1.0]], [[1.0]]]),
    "more components than the shape has": pack([1, "", 1, 5, 5, [1.0] * 2, [1.0] * 2, [[1.0]] * 2, [[1.0]] * 2]),
}


@pytest.mark.parametrize("stored", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_is_not_a_state_of_this_version_is_unreadable(stored: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(stored)


@given(
    st.binary()
    | st.recursive(st.integers(-(2**63), 2**63) | st.text() | st.floats(), st.lists).map(
        lambda tree: pack([1, *tree] if isinstance(tree, list) else tree)
    )
)
@example(with_checksum(pack([2, "[1]", *unpack(encode(ONE)[:-8])[2:]])))
@example(pack([1, "{}", 1, 0, 0, [1.0], [1.0], [[1.0]], [[1.0]]]))
@example(pack([1, '{"a":"b"}', 1, 0, 0, [1.0], [1.0], [[1.0]], [[1.0]]]))
@example(with_checksum(pack([2, "[" * 100_000, *unpack(encode(ONE)[:-8])[2:]])))
@example(pack([1, "-1", 1, 0, 0, [1.0], [1.0], [[1.0]], [[1.0]]]))
def test_whatever_is_stored_decode_returns_a_state_or_says_that_it_is_unreadable(stored: bytes) -> None:
    with suppress(Unreadable):
        shape, summary = decode(stored)
        shape.value(summary.averages())


def test_a_state_with_any_bit_changed_is_unreadable() -> None:
    stored = encode(PAIR)
    for bit in range(8 * len(stored)):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Unreadable):
            decode(bytes(damaged))


# Groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", FOREIGN.values(), ids=FOREIGN.keys())
async def test_a_key_that_holds_something_else_is_refused_with_its_group_and_kept(
    store: Store, redis: "Redis", prefix: str, stored: bytes
) -> None:
    await redis.set(f"{prefix}:stream:foreign", stored)

    committed = await store.commit([{"foreign": ONE, "companion": ONE}, {"other": ONE}, {"foreign": ONE}], soon())

    refused = [Rejection("foreign", None, RejectReason.UNREADABLE)]
    assert [refused, [], refused] == committed.rejections
    assert {"other": ONE} == committed.states
    assert stored == await redis.get(f"{prefix}:stream:foreign")
    unreadable, companion, other = await store.read(["foreign", "companion", "other"], soon())
    assert isinstance(unreadable, Unreadable)
    assert None is companion
    assert ONE == other


@pytest.mark.parametrize(
    "producers", [1, "p", [1], [["p"]], [["p", 1, 0, 0]], [["p", 1, 0, 0, "x"]], [[1, 1, 0, 0, 1]]]
)
async def test_a_window_that_is_none_is_refused_with_its_group_and_kept(
    store: Store, redis: "Redis", prefix: str, producers: Any
) -> None:
    stored = pack([1, "", 1, 5, 5, [1.0], [1.0], [[1.0]], [[1.0]], producers])  # Version 1 has no checksum.
    await redis.set(f"{prefix}:stream:foreign", stored)
    committed = await store.commit([{"foreign": ONE}, {"other": ONE}], soon(), {0: Key("p", 1)})
    assert [[Rejection("foreign", None, RejectReason.UNREADABLE)], []] == committed.rejections
    assert stored == await redis.get(f"{prefix}:stream:foreign")
    assert {"other": ONE} == committed.states


KINDS: dict[str, Callable[["Redis", str], Awaitable[Any]]] = {
    "list": lambda redis, key: redis.rpush(key, encode(ONE)),
    "hash": lambda redis, key: redis.hset(key, "field", encode(ONE)),
    "set": lambda redis, key: redis.sadd(key, encode(ONE)),
    "stream": lambda redis, key: redis.xadd(key, {"field": encode(ONE)}),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
async def test_a_key_of_another_type_is_refused_with_its_group_and_kept(
    store: Store, redis: "Redis", prefix: str, make: Callable[["Redis", str], Awaitable[Any]]
) -> None:
    await make(redis, f"{prefix}:stream:foreign")
    before = await redis.dump(f"{prefix}:stream:foreign")

    committed = await store.commit([{"companion": ONE, "foreign": ONE}, {"other": ONE}], soon())

    assert [[Rejection("foreign", None, RejectReason.UNREADABLE)], []] == committed.rejections
    assert {"other": ONE} == committed.states
    assert before == await redis.dump(f"{prefix}:stream:foreign")
    assert 0 == await count(store, "companion")
    with pytest.raises(Unreadable):
        await store.forget("foreign", soon())
    assert before == await redis.dump(f"{prefix}:stream:foreign")


async def test_another_shape_is_reported_for_every_stream_that_has_it(store: Store) -> None:
    await store.commit([{"number": ONE, "pair": PAIR, "same": ONE}], soon())

    committed = await store.commit([{"number": PAIR, "same": ONE, "new": ONE, "pair": ONE}], soon())

    assert [[Rejection("number", NUMBER), Rejection("pair", PAIR.shape)]] == committed.rejections
    assert {} == committed.states
    assert [ONE, PAIR, ONE, None] == await store.read(["number", "pair", "same", "new"], soon())


async def test_a_refused_group_takes_no_other_group_with_it(store: Store) -> None:
    await store.commit([{"a": ONE}], soon())

    committed = await store.commit([{"b": ONE}, {"a": PAIR, "b": ONE}, {"a": ONE}, {"b": ONE, "c": ONE}], soon())

    assert [[], [Rejection("a", NUMBER)], [], []] == committed.rejections
    assert {"a": 2, "b": 2, "c": 1} == {name: one.summary.count for name, one in committed.states.items()}
    assert 2 == await count(store, "b")


@pytest.mark.parametrize(("first", "second"), [(ONE, PAIR), (PAIR, ONE)], ids=["number first", "array first"])
async def test_the_first_group_to_name_a_new_stream_fixes_its_shape(store: Store, first: State, second: State) -> None:
    committed = await store.commit([{"s": first}, {"s": second, "t": second}, {"s": first}], soon())

    assert [[], [Rejection("s", first.shape)], []] == committed.rejections
    assert [State(first.shape, first.summary.merge(first.summary)), None] == await store.read(["s", "t"], soon())


async def test_a_refused_group_fixes_no_shape(store: Store) -> None:
    await store.commit([{"a": ONE}], soon())

    committed = await store.commit([{"new": PAIR, "a": PAIR}, {"new": ONE}], soon())

    assert [[Rejection("a", NUMBER)], []] == committed.rejections
    assert [ONE] == await store.read(["new"], soon())


@pytest.mark.parametrize(
    ("one", "other"),
    [(1.0, [1.0]), ([1.0], [1.0, 1.0]), ({"a": 1.0}, {"b": 1.0}), ({"a": 1.0}, {"a": [1.0]}), ([1.0], {"a": 1.0})],
)
async def test_shapes_that_look_alike_are_not_the_same(store: Store, one: Value, other: Value) -> None:
    await store.commit([{"s": state(one)}], soon())

    committed = await store.commit([{"s": state(other)}], soon())

    assert [[Rejection("s", shape_of(one))]] == committed.rejections


async def test_the_order_of_an_objects_names_is_not_part_of_its_shape(store: Store) -> None:
    committed = await store.commit([{"s": state({"a": 1.0, "b": 2.0})}, {"s": state({"b": 4.0, "a": 3.0})}], soon())

    shape, summary = committed.states["s"]
    assert [[], []] == committed.rejections
    assert {"a": 2.0, "b": 3.0} == shape.value(summary.averages())


async def test_reading_gives_none_for_what_does_not_exist_and_says_what_is_unreadable(
    store: Store, redis: "Redis", prefix: str
) -> None:
    await store.commit([{"here": ONE}], soon())
    await redis.set(f"{prefix}:stream:foreign", b"hello")

    here, missing, foreign, again = await store.read(["here", "missing", "foreign", "here"], soon())

    assert (ONE, None, ONE) == (here, missing, again)
    assert isinstance(foreign, Unreadable)


async def test_forgetting_returns_the_last_state_once_and_the_stream_starts_anew(store: Store) -> None:
    await store.commit([{"s": PAIR}], soon())

    assert PAIR == await store.forget("s", soon())
    assert None is await store.forget("s", soon())
    assert [None] == await store.read(["s"], soon())
    assert {"s": ONE} == (await store.commit([{"s": ONE}], soon())).states


async def test_stores_with_different_prefixes_do_not_see_each_other(redis: "Redis", prefix: str) -> None:
    one, other = Store(redis, prefix), Store(redis, prefix + "x")

    await one.commit([{"s": ONE}], soon())

    assert [None] == await other.read(["s"], soon())
    assert ["s"] == (await one.listing.page("", 10, None, soon())).streams
    assert [] == (await other.listing.page("", 10, None, soon())).streams


async def test_a_scalar_stream_takes_at_most_256_bytes_in_all() -> None:
    """Under the default prefix, with a name of ordinary length and sums that need several parts."""
    with valkey("--appendonly", "no") as server:
        async with connect(server.url) as redis:
            store = Store(redis, "meanwhile")
            plain = [20.1, 19.8, 21.4]
            for _ in range(100):
                await store.commit([{"plant-1/boiler/temperature": state(*plain, at=1_800_000_000_000)}], soon())
            rough = [0.1, 1e-9 / 3, 12345.678, -271.3]
            for _ in range(100):
                await store.commit([{"plant-1/boiler/rough": state(*rough, at=1_800_000_000_000)}], soon())

            sizes = {
                name: await redis.memory_usage(f"meanwhile:stream:{name}", samples=0)
                for name in ("plant-1/boiler/temperature", "plant-1/boiler/rough")
            }

            print("MEMORY USAGE", sizes)
            assert all(size is not None and 0 < size <= 256 for size in sizes.values()), sizes


# A write is sent once --------------------------------------------------------------------------------------------


Connect = Callable[[str], "Redis"]


def connect_resending(url: str) -> "Redis":
    """A client as the library makes it by default, which sends a command again up to ten times; without its pauses."""
    return Redis.from_url(url, retry=Retry(NoBackoff(), 10))


# The store must not depend on how its client was made.
CLIENTS: Sequence[Connect] = (connect, connect_resending)
clients = pytest.mark.parametrize("client", CLIENTS, ids=["the service's client", "a client that resends"])


@clients
@pytest.mark.parametrize("last_words", [None, b"*2\r\n$1"], ids=["no reply", "half a reply"])
async def test_a_write_reaches_a_server_that_dies_after_receiving_it_once(
    client: Connect, last_words: bytes | None
) -> None:
    """redis-py 8 resends by default: measured, one EVALSHA reached a dying server eleven times."""
    async with peer(lambda _: last_words) as (url, received), client(url) as redis:
        store = Store(redis, "p")
        with pytest.raises(OutcomeUnknown):
            await store.commit([{"s": ONE}], soon())
        assert [b"EVALSHA"] == received

        with pytest.raises(OutcomeUnknown):
            await store.forget("s", soon())
        assert [b"EVALSHA", b"EVALSHA"] == received


async def test_the_script_is_sent_whole_once_to_a_server_that_does_not_know_it_and_dies() -> None:
    rejection = {b"EVALSHA": b"-NOSCRIPT No matching script.\r\n", b"EVAL": None}
    async with peer(rejection.__getitem__) as (url, received), connect(url) as redis:
        with pytest.raises(OutcomeUnknown):
            await Store(redis, "p").commit([{"s": ONE}], soon())

        assert [b"EVALSHA", b"EVAL"] == received


async def test_a_write_without_an_answer_is_given_up_at_its_deadline() -> None:
    async with peer(lambda _: b"\r\n") as (url, received), connect(url) as redis:  # An empty line is no reply yet.
        clock = Clock(asyncio.get_running_loop())
        writing = asyncio.create_task(Store(redis, "p").commit([{"s": ONE}], soon(0.2)))
        while not received:  # noqa: ASYNC110  # It happens in the peer, which tells nobody.
            await asyncio.sleep(0)
        clock.advance(0.19)
        await asyncio.sleep(0)
        assert not writing.done()
        clock.advance(0.02)
        with pytest.raises(OutcomeUnknown):
            await writing

        assert [b"EVALSHA"] == received


REFUSALS = (
    *("LOADING Valkey is loading the dataset in memory", "BUSY Valkey is busy running a script.", "READONLY Replica."),
    *("OOM command not allowed when used memory > 'maxmemory'.", "MISCONF Errors writing to the AOF file"),
    *("MASTERDOWN Link with MASTER is down.", "NOREPLICAS Not enough good replicas to write.", "NOAUTH Required."),
    *("NOPERM User default has no permissions.", "MOVED 3999 127.0.0.1:1", "ASK 3999 127.0.0.1:1"),
    *("TRYAGAIN Multiple keys request during rehashing of slot", "CLUSTERDOWN Hash slot not served"),
    *("CROSSSLOT Keys in request don't hash to the same slot", "UNWRITTEN ERR ACL failure in script"),
)


@clients
@pytest.mark.parametrize("rejection", REFUSALS, ids=[rejection.split()[0] for rejection in REFUSALS])
async def test_a_refusal_to_run_a_write_means_that_nothing_was_recorded(client: Connect, rejection: str) -> None:
    async with peer(lambda _: f"-{rejection}\r\n".encode()) as (url, received), client(url) as redis:
        store = Store(redis, "p")
        with pytest.raises(StoreUnavailable):
            await store.commit([{"s": ONE}], soon())
        with pytest.raises(StoreUnavailable):
            await store.forget("s", soon())

        assert [b"EVALSHA", b"EVALSHA"] == received


@pytest.mark.parametrize(
    "error",
    [
        *("ERR user_script:88: attempt to index a nil value", "ERR", "FUTURE no idea"),
        "MISCONF Errors writing to the AOF file script: 0123, on @user_script:290.",  # It may have written before.
    ],
)
async def test_an_error_that_proves_nothing_leaves_the_outcome_unknown(error: str) -> None:
    async with peer(lambda _: f"-{error}\r\n".encode()) as (url, received), connect(url) as redis:
        with pytest.raises(OutcomeUnknown):
            await Store(redis, "p").commit([{"s": ONE}], soon())

        assert [b"EVALSHA"] == received


@asynccontextmanager
async def greeter(greet: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[str]:
    """The URL of a socket that does ``greet`` to whoever connects and answers nothing else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greet(writer)
        while await reader.read(1024):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


GREETINGS: dict[str, Callable[[asyncio.StreamWriter], None]] = {
    "closes": lambda writer: writer.close(),
    "is silent": lambda _: None,
    "is full": lambda writer: writer.write(b"-ERR max number of clients reached\r\n"),
    "speaks another protocol": lambda writer: writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
}


@pytest.mark.parametrize("greet", GREETINGS.values(), ids=GREETINGS.keys())
async def test_a_connection_that_does_not_come_about_means_that_nothing_was_recorded(
    greet: Callable[[asyncio.StreamWriter], None],
) -> None:
    async with greeter(greet) as url, connect(url) as redis:
        store = Store(redis, "p")
        with pytest.raises(StoreUnavailable):
            await store.commit([{"s": ONE}], soon(0.3))
        with pytest.raises(StoreUnavailable):
            await store.ping(soon(0.3))


@pytest.mark.parametrize("url", ["unix:///tmp/no-such-valkey.sock", "redis://127.0.0.1:1/0"])
async def test_no_server_means_that_nothing_was_recorded_or_read(url: str) -> None:
    async with connect(url) as redis:
        store = Store(redis, "p")
        with pytest.raises(StoreUnavailable):
            await store.commit([{"s": ONE}], soon())
        with pytest.raises(StoreUnavailable):
            await store.forget("s", soon())
        with pytest.raises(StoreUnavailable):
            await store.read(["s"], soon())
        with pytest.raises(StoreUnavailable):
            await store.listing.page("", 10, None, soon())


# The same with a server that is real ----------------------------------------------------------------------------


@pytest.fixture
def own() -> Iterator[Valkey]:
    """A server that this test may maltreat."""
    with valkey() as server:
        yield server


SABOTAGE = {
    "OOM": (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
    "READONLY": (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
    "NOREPLICAS": (["CONFIG", "SET", "min-replicas-to-write", "1"], ["CONFIG", "SET", "min-replicas-to-write", "0"]),
    "NOPERM": (["ACL", "SETUSER", "default", "-evalsha"], ["ACL", "SETUSER", "default", "+evalsha"]),
    "UNWRITTEN": (["ACL", "SETUSER", "default", "-set"], ["ACL", "SETUSER", "default", "+set"]),
}


async def run(operator: "Redis", *command: str) -> None:
    await operator.execute_command(*command)  # type: ignore[no-untyped-call]  # theirs


@pytest.mark.parametrize(("cause", "remedy"), SABOTAGE.values(), ids=SABOTAGE.keys())
async def test_a_real_server_that_refuses_records_nothing_and_later_does(
    own: Valkey, cause: list[str], remedy: list[str]
) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        await store.commit([{"s": ONE}], soon())

        await run(operator, *cause)
        with pytest.raises(StoreUnavailable):
            await store.commit([{"s": ONE}], soon())
        await run(operator, *remedy)

        assert 1 == await count(store, "s")
        await store.commit([{"s": ONE}], soon())
        assert 2 == await count(store, "s")


async def test_a_server_without_memory_still_forgets(own: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """It is the one way in which a client can make room."""
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        await store.commit([{"s": ONE}], soon())
        await run(operator, "CONFIG", "SET", "maxmemory", "1")
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.commit([{"t": ONE}], soon())
            assert [ONE] == await store.read(["s"], soon())
        assert ONE == await store.forget("s", soon())
        assert [None] == await store.read(["s"], soon())
    said = [
        record.getMessage().partition(":")[0]
        for record in caplog.records
        if record.name == "meanwhile.storage.redis_client"
    ]
    assert ["Redis does not accept writes", "Redis accepts writes again"] == said


async def test_a_real_server_that_is_busy_with_another_script_records_nothing_and_later_does(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator, connect(own.url) as hog:
        store = Store(redis, "p")
        await store.commit([{"s": ONE}], soon())
        await operator.config_set("busy-reply-threshold", 10)
        endless = asyncio.ensure_future(hog.eval("while true do end", 0))
        await asyncio.to_thread(eventually, lambda: _is_busy(own))

        with pytest.raises(StoreUnavailable):
            await store.commit([{"s": ONE}], soon())

        await operator.script_kill()
        with pytest.raises(RedisError):
            await endless
        assert 1 == await count(store, "s")
        await store.commit([{"s": ONE}], soon())
        assert 2 == await count(store, "s")


async def test_a_server_that_loads_its_data_records_nothing_and_later_does(own: Valkey) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "p")
        await store.commit([{f"s{n}": ONE for n in range(5_000)}], soon())
        await redis.bgrewriteaof()
        while (await redis.info("persistence"))["aof_rewrite_in_progress"]:
            pass
        own.kill()
        slowly = ("--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024")  # Microseconds.
        own.arguments = (*own.arguments, *slowly)
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):  # The loss of the old connection shows itself here.
            await store.commit([{"s": ONE}], soon())
        starting = asyncio.create_task(asyncio.to_thread(own.start))
        rejections = []
        while not starting.done():
            for attempt in (store.commit([{"s": ONE}], soon(0.5)), store.read(["s"], soon(0.5))):
                try:
                    await attempt
                except StoreUnavailable as error:
                    rejections.append(type(error.__cause__))
            await asyncio.sleep(0.01)  # Without a socket to connect to, nothing above lets anybody else run.
        await starting
        assert 2 <= rejections.count(BusyLoadingError)
        before = await count(store, "s")
        await store.commit([{"s": ONE}], soon())
        assert before + 1 == await count(store, "s")


async def test_a_server_that_takes_no_more_clients_means_that_nothing_was_recorded(own: Valkey) -> None:
    async with connect(own.url) as operator, connect(own.url) as redis:
        await operator.config_set("maxclients", 1)
        store = Store(redis, "p")
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.commit([{"s": ONE}], soon())
            with pytest.raises(StoreUnavailable):
                await store.read(["s"], soon())
        await operator.config_set("maxclients", 100)
        await store.commit([{"s": ONE}], soon())
        assert 1 == await count(store, "s")


async def test_the_reply_to_a_read_that_was_given_up_is_never_taken_for_that_of_the_next(own: Valkey) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "p")
        await store.commit([{"a": state(1.0), "b": state(2.0)}], soon())
        assert own.process is not None
        own.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable):
            await store.read(["a"], soon(0.2))
        own.process.send_signal(signal.SIGCONT)
        assert [state(2.0)] == await store.read(["b"], soon())
        own.process.send_signal(signal.SIGSTOP)
        with pytest.raises(OutcomeUnknown):
            await store.commit([{"a": state(1.0)}], soon(0.2))
        own.process.send_signal(signal.SIGCONT)
        committed = await store.commit([{"b": state(2.0)}], soon())
        assert ["b"] == list(committed.states)


def _is_busy(server: Valkey) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(server.socket))
        probe.sendall(b"PING\r\n")
        return probe.recv(64).startswith(b"-BUSY")


async def test_a_server_killed_while_it_holds_a_write_leaves_the_outcome_unknown(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        await store.commit([{"s": ONE}], soon())
        await run(operator, "CLIENT", "PAUSE", "100000", "WRITE")
        writing = asyncio.ensure_future(store.commit([{"s": ONE}], soon()))
        while (await operator.info("clients"))["blocked_clients"] == 0:
            pass

        own.kill()
        with pytest.raises(OutcomeUnknown):
            await writing
        with pytest.raises(StoreUnavailable):
            await store.commit([{"s": ONE}], soon())
        own.start()

        assert 1 == await count(store, "s")
        await store.commit([{"s": ONE}], soon())
        assert 2 == await count(store, "s")


async def test_a_write_to_a_stopped_server_is_given_up_in_time_and_runs_at_most_once(own: Valkey) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "p")
        await store.commit([{"s": state(4.0**0)}], soon())
        assert own.process is not None

        own.process.send_signal(signal.SIGSTOP)
        with pytest.raises(OutcomeUnknown):
            await store.commit([{"s": state(4.0**1)}], soon(0.3))
        with pytest.raises(StoreUnavailable):  # There is no connection any more, and no new one comes about.
            await store.commit([{"s": state(4.0**2)}], soon(0.3))
        with pytest.raises(StoreUnavailable):
            await store.read(["s"], soon(0.3))
        own.process.send_signal(signal.SIGCONT)

        shape, summary = (await store.commit([{"s": state(4.0**3)}], soon())).states["s"]
        total, _ = summary.sums.ratios(1)[0]
        assert shape == NUMBER
        assert total in {0b01_00_00_01, 0b01_00_01_01}, "each reading is one digit to the base 4"


async def test_writes_go_on_while_scripts_are_flushed_and_nothing_is_lost_or_doubled(own: Valkey) -> None:
    async with connect(own.url) as redis, connect(own.url) as operator:
        store = Store(redis, "p")
        writing = True

        async def flush() -> None:
            while writing:
                await operator.script_flush()

        async def write(writer: int) -> None:
            for step in range(100):
                await store.commit([{f"s{writer}": state(4.0**step)}], soon())

        flushing = asyncio.ensure_future(flush())
        await asyncio.gather(*map(write, range(16)))
        writing = False
        await flushing

        every_once = sum(4**step for step in range(100))
        for found in await store.read([f"s{writer}" for writer in range(16)], soon()):
            assert isinstance(found, State)
            assert (every_once, 1) == found.summary.sums.ratios(1)[0]
        calls = await operator.info("commandstats")
        print("sent whole after a flush:", calls["cmdstat_eval"]["calls"], "of 1600")
        assert calls["cmdstat_eval"]["calls"] > 10, "the scripts were not flushed under the writers"


# Listing ---------------------------------------------------------------------------------------------------------


async def pages(store: Store, prefix: str, limit: int, most: int = 100_000) -> AsyncIterator[list[str]]:
    """All pages of a listing; each checked to be no longer than asked for."""
    cursor = None
    for _ in range(most):
        found, cursor = await store.listing.page(prefix, limit, cursor, soon())
        assert len(found) <= limit
        yield found
        if cursor is None:
            return
    raise AssertionError(f"the listing did not end after {most} pages")


@pytest.mark.parametrize("limit", [1, 2, 7, 999, 1_000, 1_001, 10_000])
async def test_every_stream_is_on_a_page_whatever_the_limit(store: Store, limit: int) -> None:
    created = [f"plant-{i % 7}/sensor:{i}" for i in range(200 if limit < 10 else 2_500)]
    await store.commit([dict.fromkeys(created, ONE)], soon())

    listed = [name async for page in pages(store, "", limit) for name in page]

    assert sorted(created) == sorted(set(listed))


async def test_redis_has_the_service_in_its_list_of_clients(redis: "Redis") -> None:
    assert any("meanwhile" in client["lib-name"] for client in await redis.client_list())


async def test_a_hundred_thousand_streams_are_created_and_listed() -> None:
    with valkey("--appendonly", "no") as server:
        async with connect(server.url) as redis:
            store = Store(redis, "meanwhile")
            created = [f"site-{i // 1_000}/sensor-{i % 1_000}" for i in range(100_000)]
            for start in range(0, len(created), 10_000):
                committed = await store.commit([dict.fromkeys(created[start : start + 10_000], ONE)], soon(30))
                assert [[]] == committed.rejections

            listed = [page async for page in pages(store, "", 1_000)]

            assert 100_000 == await redis.dbsize()
            assert set(created) == {name for page in listed for name in page}


async def test_a_prefix_selects_the_names_that_start_with_it(store: Store) -> None:
    created = ["a", "a/b", "a/b/c", "ab", "b", "b/a", "A/b"]
    await store.commit([dict.fromkeys(created, ONE)], soon())

    async def listed(prefix: str) -> list[str]:
        return sorted([name async for page in pages(store, prefix, 2) for name in page])

    assert sorted(created) == await listed("")
    assert ["a", "a/b", "a/b/c", "ab"] == await listed("a")
    assert ["a/b", "a/b/c"] == await listed("a/")
    assert ["a/b/c"] == await listed("a/b/c")
    assert [] == await listed("c")


@pytest.mark.parametrize("glob", ["*", "?", "[a-z]", "[^a]", "\\", "a*b?c[d]e\\f^g"])
async def test_glob_characters_in_the_key_prefix_stand_for_themselves(redis: "Redis", prefix: str, glob: str) -> None:
    store = Store(redis, prefix + glob)
    beside = [Store(redis, prefix + other) for other in ("", "b", "zz", "axbxcdexfxg")]
    await store.commit([{"mine": ONE}], soon())
    for number, other in enumerate(beside):
        await other.commit([{f"not-mine-{number}": ONE}], soon())

    assert ["mine"] == [name async for page in pages(store, "", 10) for name in page]


async def test_keys_that_are_no_streams_are_not_listed(store: Store, redis: "Redis", prefix: str) -> None:
    await store.commit([{"s": ONE}], soon())
    for foreign in (b"a b", b"", b"/", b"a//b", b"\xff\xfe", b"x/average", b"a*", b"x" * 256):
        await redis.set(f"{prefix}:stream:".encode() + foreign, b"")
    await redis.set(f"{prefix}:other", b"")

    assert ["s"] == [name async for page in pages(store, "", 2) for name in page]


FORGED = (
    *("", "-", "x", "5", "0", "s", "-s", "x-", "5-a b", "5-*", "5-/", "5-a//b", "-1-", "+1-", " 1-", "1 -", "1.0-"),
    *("0x1-", "1_0-", "1e3-", "\u0663-", "\u00b2-", "18446744073709551616-", "9" * 99 + "-", "5-\x00", "5-\ud800"),
)


@pytest.mark.parametrize("cursor", FORGED, ids=ascii)
async def test_a_forged_cursor_is_a_value_error(store: Store, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        await store.listing.page("", 10, cursor, soon())


@pytest.mark.parametrize("cursor", ["0,q/1", "0,p/1,q/1", "0,p"])
async def test_a_cursor_of_another_prefix_is_a_value_error(store: Store, cursor: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        await store.listing.page("p/", 10, cursor, soon())


@pytest.mark.parametrize("position", [0, 7, 2**63, 2**64 - 1])
@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_a_cursor_with_another_position_lists_from_there(store: Store, position: int, limit: int) -> None:
    created = {f"s{i}" for i in range(100)}
    await store.commit([dict.fromkeys(created, ONE)], soon())
    _, cursor = await store.listing.page("", limit, None, soon())
    assert cursor is not None

    page = await store.listing.page("", limit, re.sub(r"^\d+", str(position), cursor), soon())

    assert len(page.streams) <= limit
    assert set(page.streams) <= created


@pytest.mark.parametrize("limit", [10, 100, 1_000, 10_000])
async def test_a_cursor_fits_into_a_url_whatever_the_limit_and_however_many_names_match(
    own: Valkey, limit: int
) -> None:
    """Clients, proxies and servers refuse long URLs (often above 8 KiB), and then nobody could list the rest."""
    async with connect(own.url) as redis:
        store = Store(redis, "meanwhile")
        names = [f"{'ab'[i % 5 < 2]}-plant/boiler-{i % 8}/sensor-{i}/temperature" for i in range(20_000)]
        await store.commit([dict.fromkeys(names, ONE)], soon())

        for prefix in ("", "a-", "a-plant/boiler-7/sensor-1"):
            cursor, longest = None, 0
            for _ in range(50):
                _, cursor = await store.listing.page(prefix, limit, cursor, soon())
                longest = max(longest, len(cursor or ""))
                if cursor is None:
                    break
            assert longest <= 4_000


@pytest.mark.parametrize("limit", [10, 300, 1_000])
async def test_deleting_what_was_listed_hides_nothing_that_was_not(
    store: Store, redis: "Redis", prefix: str, limit: int
) -> None:
    """The usual way to delete many streams: list a page, delete what is on it, ask for the next one."""
    created = {f"s{i}" for i in range(4_000)}
    await store.commit([dict.fromkeys(created, ONE)], soon())

    listed: set[str] = set()
    async for page in pages(store, "", limit):
        listed.update(page)
        if page:
            await redis.delete(*[f"{prefix}:stream:{name}" for name in page])

    assert set() == created - listed


@pytest.mark.parametrize("limit", [10, 100, 1_000])
async def test_streams_created_between_pages_hide_none_that_were_there(own: Valkey, limit: int) -> None:
    async with connect(own.url) as redis:
        store = Store(redis, "meanwhile")
        created = {f"s{i}" for i in range(2_000)}
        await store.commit([dict.fromkeys(created, ONE)], soon())

        listed: set[str] = set()
        number = 0
        async for page in pages(store, "", limit):
            listed.update(page)
            if number < 10:
                await store.commit([dict.fromkeys([f"new-{number}/{i}" for i in range(1_000)], ONE)], soon())
            number += 1

        assert set() == created - listed


@pytest.mark.parametrize("limit", [10, 100, 1_000])
async def test_streams_deleted_between_pages_hide_none_that_stay(own: Valkey, limit: int) -> None:
    """Most streams go while the listing goes on, so that the server shrinks its table."""
    async with connect(own.url) as redis:
        store = Store(redis, "meanwhile")
        names = [f"s{i}" for i in range(8_000)]
        await store.commit([dict.fromkeys(names, ONE)], soon())
        kept = set(names[::16])
        going = [name for name in names if name not in kept]
        random.Random(3).shuffle(going)

        listed: set[str] = set()
        async for page in pages(store, "", limit):
            listed.update(page)
            if going:
                await redis.delete(*[f"meanwhile:stream:{name}" for name in going[: 8 * limit]])
                del going[: 8 * limit]

        assert set() == kept - listed
