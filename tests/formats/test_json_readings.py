"""Holds the two JSON readers to one answer, and both to what the text says.

The fast reader lets duplicate keys and underflowing literals pass and is believed only where neither is possible; a
mistake in that decision would lose readings without a word. So bodies are made here with the answer known beforehand:
valid ones in every notation, the same with a duplicate key anywhere, and the same with bytes changed.
"""

from collections.abc import Callable
from math import copysign
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meanwhile.core.errors import Invalid, TooMany
from meanwhile.core.readings import Limits, Readings
from meanwhile.formats import json_bodies
from meanwhile.formats import json_readings as reader
from meanwhile.formats.json_readings import decode, decode_batch
from meanwhile.formats.strict_json import Malformed

law = settings(derandomize=True, deadline=None, max_examples=100)

NOW = 1_767_225_600_000
FEW = Limits(readings=6, components=6, names=4)
MORE = Limits(readings=12, components=6, names=4)

FORM = 'Expected {"value": v}, with a "time" if you like, or {"values": [v, ...]}.'
NUMBERS = "Expected a number, an array of numbers, or an object of named numbers and arrays of numbers."
ITEM = "Expected a number."
DOMAIN = "Expected 0 or a number with a magnitude from 1e-140 to 1e+140."
TWICE = "Expected every key once; one is a duplicate."
TIME = 'Expected an RFC 3339 time with a zone, such as "2026-01-01T00:00:00Z", or Unix seconds.'
SOME = "Expected at least one number in every array and object."

Read = Callable[[bytes, int, Limits], Any]


def answer(read: Read, body: bytes, limits: Limits = FEW) -> str:
    """What a reader makes of a body, to the bit: its readings, or its refusal. Any other exception is a failure."""
    try:
        return repr(read(body, NOW, limits))
    except Malformed as error:
        return f"Malformed: {error.detail}"
    except Invalid as error:
        return f"{type(error).__name__} at {error.pointer}: {error.detail}"


def strict_answer(read: Read, body: bytes, limits: Limits = FEW) -> str:
    """The same of the strict reader: the fast one is never believed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_needs_strict_parse", lambda *_: True)
        return answer(read, body, limits)


def refused(read: Read, body: bytes, limits: Limits = FEW) -> str:
    """The refusal of a body by both readers; fails if one of them takes it."""
    said = answer(read, body, limits)
    assert said.startswith(("Malformed", "Invalid", "TooMany"))
    assert said == strict_answer(read, body, limits)
    return said


def average(readings: Readings) -> list[Any]:
    """The readings as values again."""
    return [readings.shape.value(row) for row in zip(*readings.columns, strict=True)]


# Bodies. A tree is what JSON says: an object is a tuple of (key, tree) pairs, an array a list, a string a str, and
# bytes are a literal exactly as written.

LITERALS = st.one_of(
    st.sampled_from([b"0", b"-0", b"0.0", b"0e-400", b"-0.0E+5", b"1", b"21.4", b"1E2", b"1e-7", b"9007199254740993"]),
    st.integers(-(10**30), 10**30).map(lambda n: str(n).encode()),
    st.floats(1e-140, 1e140).map(lambda x: repr(-x).encode()),
    st.builds(lambda zeros, tail: b"0." + b"0" * zeros + tail, st.integers(0, 130), st.sampled_from([b"1", b"", b"25"]))
    .filter(lambda literal: not literal.endswith(b"."))
    .map(bytes),
)
NAMES = st.text(st.sampled_from("ab:é😀'{},[ "), min_size=1, max_size=3)
TIMES = st.sampled_from(["2026-01-01T00:00:00Z", "1999-12-31 23:59:60.25+01:30", b"0", b"-1.5", b"1.7e9", b"25e-2"])
STREAMS = st.sampled_from(["a", "b", "a:b", "plant/boiler:2/t", "x~y", "value", "values", "time", "0:"])


def trees_of(value: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[tuple[str, Any], ...]]:
    """Bodies for one stream with such values."""
    one = st.tuples(st.tuples(st.just("value"), value))
    timed = st.tuples(st.tuples(st.just("value"), value), st.tuples(st.just("time"), TIMES))
    backwards = timed.map(lambda pairs: (pairs[1], pairs[0]))
    return st.one_of(one, timed, backwards)


VECTORS = st.lists(LITERALS, min_size=1, max_size=3)
OBJECTS = st.dictionaries(NAMES, st.one_of(LITERALS, VECTORS), min_size=1, max_size=3).map(lambda d: tuple(d.items()))
MANY = st.one_of(
    st.lists(LITERALS, min_size=1, max_size=4),
    st.lists(st.lists(LITERALS, min_size=2, max_size=2), min_size=1, max_size=3),
    st.lists(st.tuples(LITERALS, LITERALS).map(lambda two: (("a:", two[0]), ("b", [two[1]]))), min_size=1, max_size=3),
)
BODIES = st.one_of(
    trees_of(LITERALS), trees_of(VECTORS), trees_of(OBJECTS), MANY.map(lambda values: (("values", values),))
)
BATCHES = st.dictionaries(STREAMS, BODIES, min_size=1, max_size=2).map(lambda bodies: tuple(bodies.items()))


def text_of(tree: Any, random: Random, escapes: float) -> str:
    """A JSON text of a tree, with any white space, and with this share of characters escaped."""

    def space() -> str:
        return random.choice(["", "", "", " ", "\n", "\t\r "])

    def string(text: str) -> str:
        units = text.encode("utf-16-be")
        escaped = "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
        if random.random() < escapes:
            return f'"{escaped}"'
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def write(node: Any) -> str:
        if isinstance(node, bytes):
            return node.decode()
        if isinstance(node, str):
            return string(node)
        if isinstance(node, list):
            return "[" + ",".join(space() + write(one) + space() for one in node) + "]"
        pairs = (f"{space()}{string(key)}{space()}:{space()}{write(one)}{space()}" for key, one in node)
        return "{" + (",".join(pairs) or space()) + "}"

    return space() + write(tree) + space()


def meaning(node: Any) -> Any:
    """What a tree without duplicate keys says, in Python's terms."""
    if isinstance(node, bytes):
        return float(node) + 0.0
    if isinstance(node, list):
        return [meaning(one) for one in node]
    return {key: meaning(one) for key, one in node} if isinstance(node, tuple) else node


def has_tiny(node: Any) -> bool:
    """Whether a tree of values holds one that is too small."""
    if isinstance(node, bytes):
        return 0 < abs(float(node)) < 1e-140
    return any(map(has_tiny, [one for _, one in node] if isinstance(node, tuple) else node))


def objects_in(node: Any, path: tuple[int, ...] = (), pointer: str = "") -> list[tuple[tuple[int, ...], str]]:
    """Every object of a tree: its path through the tree, and its JSON pointer."""
    found = []
    if isinstance(node, tuple):
        found.append((path, pointer))
        for i, (key, one) in enumerate(node):
            token = key.replace("~", "~0").replace("/", "~1")
            found += objects_in(one, (*path, i), f"{pointer}/{token}")
    if isinstance(node, list):
        for i, one in enumerate(node):
            found += objects_in(one, (*path, i), f"{pointer}/{i}")
    return found


def with_twin(node: Any, path: tuple[int, ...], random: Random) -> Any:
    """The tree with a duplicate of one key of the object at ``path``, with equal or other values, in any order."""
    if path:
        i, rest = path[0], path[1:]
        nodes = list(node)
        is_object = isinstance(node, tuple)
        nodes[i] = (node[i][0], with_twin(node[i][1], rest, random)) if is_object else with_twin(node[i], rest, random)
        return tuple(nodes) if is_object else nodes
    key, one = random.choice(node)
    twin = (key, random.choice([one, one, b"7", node[0][1]]))
    pairs = list(node)
    pairs.insert(random.randint(0, len(pairs)), twin)
    return tuple(pairs)


@law
@given(BODIES, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.0, 0.3, 1.0]))
def test_a_valid_body_says_the_same_in_every_notation(tree: Any, random: Random, escapes: float) -> None:
    body = text_of(tree, random, escapes).encode()
    values = [one for key, one in tree if key == "value"] or next(one for key, one in tree if key == "values")
    assert answer(decode, body) == strict_answer(decode, body)
    if has_tiny(values):
        assert DOMAIN in answer(decode, body)
    else:
        assert meaning(values) == average(decode(body, NOW, FEW))
        assert all(copysign(1.0, x) > 0 for column in decode(body, NOW, FEW).columns for x in column if x == 0)


@law
@given(BATCHES, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.0, 0.3, 1.0]))
def test_a_valid_batch_says_the_same_in_every_notation(tree: Any, random: Random, escapes: float) -> None:
    body = text_of(tree, random, escapes).encode()
    assert answer(decode_batch, body) == strict_answer(decode_batch, body)
    first_refusal = ""
    for name, one in tree:
        said = answer(decode, text_of(one, random, 0.0).encode(), MORE)
        if said.startswith("Invalid at ") and not first_refusal:
            token = name.replace("~", "~0").replace("/", "~1")
            first_refusal = said.replace("Invalid at ", f"Invalid at /{token}")
    if first_refusal:
        assert first_refusal == answer(decode_batch, body, MORE)
    else:
        alone = {name: decode(text_of(one, random, 0.0).encode(), NOW, MORE) for name, one in tree}
        assert alone == decode_batch(body, NOW, MORE)
        assert [name for name, _ in tree] == list(decode_batch(body, NOW, MORE))


@law
@given(BODIES, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.0, 0.3, 1.0]))
def test_a_key_given_twice_anywhere_in_a_body_is_refused(tree: Any, random: Random, escapes: float) -> None:
    path, pointer = random.choice(objects_in(tree))
    body = text_of(with_twin(tree, path, random), random, escapes).encode()
    assert f"Invalid at {pointer}: {TWICE}" == refused(decode, body)


@law
@given(BATCHES, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.0, 0.3, 1.0]))
def test_a_key_given_twice_anywhere_in_a_batch_is_refused(tree: Any, random: Random, escapes: float) -> None:
    path, pointer = random.choice(objects_in(tree))
    body = text_of(with_twin(tree, path, random), random, escapes).encode()
    assert f"Invalid at {pointer}: {TWICE}" == refused(decode_batch, body)


@pytest.mark.parametrize(
    ("pointer", "body"),
    [
        ("", '{"value":1,"value":2}'),
        ("", '{"value":1,"value":1}'),
        ("", '{"value" :1, "value"\t: 2}'),
        ("", '{"value":1,"v\\u0061lue":2}'),
        ("", '{"\\u0076alue":1,"value":2}'),
        ("", '{"time":0,"value":1,"time":0}'),
        ("", '{"time":"2026-01-01T00:00:00Z","time":0,"value":1}'),
        ("", '{"time":0,"time":"2026-01-01T00:00:00Z","value":1}'),
        ("", '{"values":[1],"values":[2]}'),
        ("", '{"values":[{"a:b:c":1}],"values":[2]}'),
        ("", '{"value":{"a":1},"value":{"b":1}}'),
        ("", '{"value":"x","value":1}'),
        ("", '{"value":1,"x":1,"x":1}'),
        ("/value", '{"value":{"a":1,"a":2}}'),
        ("/value", '{"value":{"a":1,"a":[2]}}'),
        ("/value", '{"value":{"a":1,"\\u0061":2}}'),
        ("/value", '{"value":{"a:":1,"a:":2}}'),
        ("/value", '{"value":{"":1,"":2}}'),
        ("/value", '{"value":{"é":1,"\\u00e9":2}}'),
        ("/value", '{"value":{"\U0001f600":1,"\\ud83d\\ude00":2}}'),
        ("/value", '{"value":{"a\\"":1,"a\\"":2}}'),
        ("/value", '{"value":{"a":1,"a":2},"time":"2026-01-01T00:00:00Z"}'),
        ("/values/1", '{"values":[{"a":1},{"a":1,"a":2}]}'),
        ("/values/0", '{"values":[{"a":[1],"a":[2]},{"a":[1]}]}'),
    ],
)
def test_a_key_given_twice_is_refused_at_its_object(pointer: str, body: str) -> None:
    assert f"Invalid at {pointer}: {TWICE}" == refused(decode, body.encode())
    assert f"Invalid at /s{pointer}: {TWICE}" == refused(decode_batch, f'{{"s": {body}}}'.encode())
    assert f"Invalid at /s:t{pointer}: {TWICE}" == refused(
        decode_batch, f'{{"a":{{"value":1}},"s:t":{body},"b":{{"values":[1]}}}}'.encode()
    )


@pytest.mark.parametrize(
    "body",
    [
        '{"a":{"value":1},"a":{"value":2}}',
        '{"a":{"value":1},"a":{"value":1}}',
        '{"a" : {"value":1},"b":{"value":1},"a" : {"value":2}}',
        '{"a":{"value":1},"\\u0061":{"value":2}}',
        '{"a:b":{"value":1},"a:b":{"value":2}}',
        '{"a/b":{"value":1},"a\\/b":{"value":2}}',
        '{"a":{},"a":{"value":1}}',
        '{"a":{"value":{"x:y":1}},"a":{"value":1,"time":"2026-01-01T00:00:00Z"}}',
    ],
)
def test_a_stream_given_twice_is_refused(body: str) -> None:
    assert f"Invalid at : {TWICE}" == refused(decode_batch, body.encode())


JUNK = [b'"', b"\\", b"\\u0061", b"\\ud800", b":", b",", b"{", b"}", b"[", b"]", b"e-400", b"e", b"-", b".", b"0", b" "]
JUNK += [b"null", b"true", b"NaN", b"Infinity", b"\xff", b"\xed\xa0\x80", b"\x00", b"\x1f", b"\x7f", b"9" * 310]
JUNK += [b'"value":1,', b'"values":[1],', b'"time":0,', b'"a":1,', b"[[1]]", b"\xef\xbb\xbf", b"0" * 120, b'""']


def damaged(body: bytes, random: Random) -> bytes:
    """The body after one to three small accidents."""
    for _ in range(random.randint(1, 3)):
        start = random.randint(0, len(body))
        end = min(len(body), start + random.randint(0, 6))
        body = random.choice(
            [
                body[:start] + body[end:],
                body[:start] + random.choice(JUNK) + body[start:],
                body[:start] + random.choice(JUNK) + body[end:],
                body[:start] + body[start:end] * 2 + body[end:],
                body[:start],
            ]
        )
    return body


@settings(law, max_examples=200)
@given(BODIES, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.0, 0.3]))
def test_both_readers_say_the_same_of_damaged_bodies(tree: Any, random: Random, escapes: float) -> None:
    for _ in range(5):
        body = damaged(text_of(tree, random, escapes).encode(), random)
        assert answer(decode, body) == strict_answer(decode, body), body


@settings(law, max_examples=200)
@given(BATCHES, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.0, 0.3]))
def test_both_readers_say_the_same_of_damaged_batches(tree: Any, random: Random, escapes: float) -> None:
    for _ in range(5):
        body = damaged(text_of(tree, random, escapes).encode(), random)
        assert answer(decode_batch, body) == strict_answer(decode_batch, body), body


@law
@given(st.one_of(st.binary(max_size=30), st.text(st.sampled_from('{}[]":,0e-. value'), max_size=30).map(str.encode)))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    assert answer(decode, body) == strict_answer(decode, body)
    assert answer(decode_batch, body) == strict_answer(decode_batch, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":{"value":1e300},"..":{"value":1}}',
        b'{"a":{"value":1,"time":"x"},"average":{"value":1}}',
        b'{"a":{"values":[1,2,3,4]},"b":{"values":[5,6,7]},"a b":{"value":1}}',
        b'{"a b":{"value":{"\x7f":1}}}',
        b'{"a":{"value":1e300},"b":{"value":{"\x7f":1}}}',
    ],
)
def test_of_two_errors_in_a_batch_both_readers_name_the_same(body: bytes) -> None:
    assert strict_answer(decode_batch, body) == answer(decode_batch, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"value":{"\x7f":1}}',
        b'{"value":{"\x7f":1},"time":"x"}',
        b'{"values":[{"a":1},{"\x7f":1}]}',
        b'{"values":[1,{"\xe2\x80\xae":1}]}',
        b'{"value":{"\x7f":1e300}}',
        b'{"values":[1e300,{"a":1}]}',
    ],
)
def test_both_readers_refuse_names_alike(body: bytes) -> None:
    assert strict_answer(decode, body) == answer(decode, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"value": 21.4}',
        b'{"value": 0, "time": 0}',
        b'{"value": -0.0, "time": "2026-01-01T00:00:00Z"}',
        b'{"value": 1.5e-7, "time": "2026-01-01T00:00:00.5+01:00"}',
        b'{"values": [1, 2, 3e10]}',
        b'{"value": {"t:1": 21.4, "key": [1, 2]}}',
    ],
)
def test_an_ordinary_body_is_read_by_the_fast_reader_alone(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(json_bodies, "load")
    assert 1 <= decode(body, NOW, FEW).size
    assert ["a", "b:c"] == list(decode_batch(b'{"a":' + body + b',"b:c" : ' + body + b"}", NOW, FEW))


# Numbers.


@law
@given(
    st.one_of(LITERALS, st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
)
@example("9007199254740993")
@example("9007199254740992.99999999999999999999999999999999")
@example("9007199254740993.00000000000000000000000000000001")
@example("18446744073709551615")
@example("18446744073709551616")
@example("-9223372036854775809")
@example("1" + "0" * 140)
@example("1" + "0" * 141)
@example("0." + "0" * 139 + "1")
@example("2.2250738585072011e-308")
@example("0.1000000000000000055511151231257827021181583404541015625")
@example("8.5e-1")
@example("1e-140")
@example("0e999999999999")
@example("100000000000000000000000000000000000000000000000000000000e-50")
@example("0.000000000000000000000000000000000000000000000000000001e50")
def test_a_number_is_read_as_the_nearest_double(literal: str | bytes) -> None:
    text = literal if isinstance(literal, str) else literal.decode()
    number = float(text)
    is_zero = not any(c in "123456789" for c in text.lower().partition("e")[0])
    for body, pointer in [(f'{{"value":{text}}}', "/value"), (f'{{"values":[1,{text}]}}', "/values/1")]:
        if is_zero or 1e-140 <= abs(number) <= 1e140:
            assert number == decode(body.encode(), NOW, FEW).columns[0][-1]
            assert answer(decode, body.encode()) == strict_answer(decode, body.encode())
        else:
            assert f"Invalid at {pointer}: {DOMAIN}" == refused(decode, body.encode())


NOT_NUMBERS = [
    (NUMBERS, "", "true"),
    (NUMBERS, "", "false"),
    (NUMBERS, "", "null"),
    (NUMBERS, "", '"1.5"'),
    (NUMBERS, "", '""'),
    (NUMBERS, "", '"NaN"'),
    (DOMAIN, "", "NaN"),
    (DOMAIN, "", "Infinity"),
    (DOMAIN, "", "-Infinity"),
    (DOMAIN, "", "1e400"),
    (DOMAIN, "", "-1e400"),
    (DOMAIN, "", "1e141"),
    (DOMAIN, "", "1e308"),
    (DOMAIN, "", "9" * 400),
    (DOMAIN, "", "-" + "9" * 5000),
    (DOMAIN, "", "1" + "0" * 5000 + ".5"),
    (DOMAIN, "", "1e999999999999999999999999"),
    (DOMAIN, "", "1e-400"),
    (DOMAIN, "", "-1e-400"),
    (DOMAIN, "", "1E-400"),
    (DOMAIN, "", "0.1e-999999999999999999999999"),
    (DOMAIN, "", "1e-141"),
    (DOMAIN, "", "5e-324"),
    (DOMAIN, "", "0." + "0" * 200 + "1"),
    (DOMAIN, "", "0." + "0" * 400 + "1"),
    (DOMAIN, "", "-0." + "0" * 400 + "1"),
    (DOMAIN, "", "0." + "0" * 400 + "1e5"),
    (DOMAIN, "", "0." + "0" * 5000 + "1"),
]


@pytest.mark.parametrize(("detail", "_", "literal"), NOT_NUMBERS, ids=lambda text: text[:12])
def test_what_is_no_number_of_the_domain_is_refused_at_its_place(detail: str, _: str, literal: str) -> None:
    item = ITEM if detail == NUMBERS else detail
    places = [
        ("/value", detail, f'{{"value": {literal}}}'),
        ("/value", detail, f'{{"value": {literal}, "time": "2026-01-01T00:00:00Z"}}'),
        ("/value/1", item, f'{{"value": [1, {literal}]}}'),
        ("/value/a~1b", detail, f'{{"value": {{"c": 1, "a/b": {literal}}}}}'),
        ("/value/a~0/0", item, f'{{"value": {{"a~": [{literal}]}}}}'),
        ("/values/2", detail, f'{{"values": [1, 2, {literal}]}}'),
        ("/values/1/0", item, f'{{"values": [[1], [{literal}]]}}'),
        ("/values/0/a:", detail, f'{{"values": [{{"a:": {literal}}}]}}'),
    ]
    for pointer, expected, body in places:
        assert f"Invalid at {pointer}: {expected}" == refused(decode, body.encode())
        batch = f'{{"ok": {{"value": 1}}, "x/y": {body}}}'.encode()
        assert f"Invalid at /x~1y{pointer}: {expected}" == refused(decode_batch, batch)


@pytest.mark.parametrize(
    ("pointer", "detail", "value"),
    [
        ("/value/0", ITEM, "[[1]]"),
        ("/value/0", ITEM, "[[]]"),
        ("/value/1", ITEM, '[1,{"a":1}]'),
        ("/value/a", NUMBERS, '{"a":{"b":1}}'),
        ("/value/a", NUMBERS, '{"a":{}}'),
        ("/value/a/0", ITEM, '{"a":[[1]]}'),
        ("/value", SOME, "[]"),
        ("/value", SOME, "{}"),
        ("/value", SOME, '{"a":[]}'),
        ("/value", SOME, '{"a":1,"b":[]}'),
        ("/value", "Expected at most 4 names in an object.", '{"a":1,"b":1,"c":1,"d":1,"e":1}'),
        ("/value", "Expected at most 6 numbers in a value.", "[1,2,3,4,5,6,7]"),
        ("/value", "Expected at most 6 numbers in a value.", '{"a":[1,2,3,4,5,6],"b":1}'),
    ],
)
def test_what_is_no_value_is_refused(pointer: str, detail: str, value: str) -> None:
    assert f"Invalid at {pointer}: {detail}" == refused(decode, f'{{"value":{value}}}'.encode())
    assert f"Invalid at /s{pointer}: {detail}" == refused(decode_batch, f'{{"s":{{"value":{value}}}}}'.encode())


@pytest.mark.parametrize(
    "name",
    ["", "\x7f", "\u202e", "\\u0000", "\\n", "\\ud800", "\\udc00x", "n" * 256],
    ids=lambda name: ascii(name)[:12],
)
@pytest.mark.parametrize("part", ["1", "[1, 2]", "1e300", '"x"', "[null]", "[]"])
def test_a_name_that_cannot_be_kept_is_refused_and_not_repeated(name: str, part: str) -> None:
    assert refused(decode, f'{{"value":{{"{name}":{part}}}}}'.encode()).startswith("Invalid at /value: Expected ")
    later = f'{{"s":{{"values":[1,{{"{name}":{part}}}]}}}}'.encode()
    assert refused(decode_batch, later).startswith("Invalid at /s/values/1: Expected ")


@pytest.mark.parametrize(
    ("pointer", "detail", "body"),
    [
        ("", FORM, b"{}"),
        ("", FORM, b"[]"),
        ("", FORM, b"1"),
        ("", FORM, b"null"),
        ("", FORM, b'"value"'),
        ("", FORM, b'[["value",1]]'),
        ("", FORM, b'{"time":0}'),
        ("", FORM, b'{"value":1,"values":[1]}'),
        ("", FORM, b'{"values":[1],"time":0}'),
        ("", FORM, b'{"value":1,"values":[1],"time":0}'),
        ("", FORM, b'{"value":1,"unit":"C"}'),
        ("", FORM, b'{"Value":1}'),
        ("", FORM, b'{"value":1,"":1}'),
        ("", FORM, b'{"value":1,"\\ud800":1}'),
        ("", FORM, b'{"value":1,"value\\u0000":1}'),
        ("/values", "Expected an array of values.", b'{"values":1}'),
        ("/values", "Expected an array of values.", b'{"values":{"a":1}}'),
        ("/values", "Expected an array of values.", b'{"values":{}}'),
        ("/values", "Expected an array of values.", b'{"values":null}'),
        ("/values", "Expected at least one reading.", b'{"values":[]}'),
        ("/values/1", "Expected the shape of the first value, a number.", b'{"values":[1,[1]]}'),
        ("/values/1", "Expected the shape of the first value, an array of 2 numbers.", b'{"values":[[1,2],[1]]}'),
        ("/values/0", SOME, b'{"values":[[],[1]]}'),
    ],
)
def test_a_body_of_another_form_is_refused(pointer: str, detail: str, body: bytes) -> None:
    assert f"Invalid at {pointer}: {detail}" == refused(decode, body)
    assert f"Invalid at /s{pointer}: {detail}" == refused(decode_batch, b'{"s":' + body + b"}")


NOT_TIMES = ["null", "true", "[]", "{}", '""', '"now"', '"2026-01-01"', '"2026-01-01T00:00:00"', '"1767225600"', "NaN"]
NOT_TIMES += ["1e400", "1e-400", "-1e-400", "1e300", "253402300800", '"\\ud800"', '"2026-01-01T00:00:00Z\\u0000"']
NOT_TIMES += ["0." + "0" * 400 + "1", "9" * 5000, "-Infinity", '"' + ":" * 1000 + '"']


@pytest.mark.parametrize("time", NOT_TIMES, ids=lambda time: time[:24])
def test_what_is_no_time_is_refused(time: str) -> None:
    assert f"Invalid at /time: {TIME}" == refused(decode, f'{{"value":1,"time":{time}}}'.encode())
    assert f"Invalid at /s/time: {TIME}" == refused(decode_batch, f'{{"s":{{"time":{time},"value":1}}}}'.encode())


def test_a_reading_has_its_own_time_or_else_the_servers() -> None:
    assert (NOW, NOW) == decode(b'{"value":1}', NOW, FEW)[2:4]
    assert (NOW, NOW) == decode(b'{"values":[1,2]}', NOW, FEW)[2:4]
    assert (1500, 1500) == decode(b'{"value":1,"time":1.5}', NOW, FEW)[2:4]
    assert (0, 0) == decode(b'{"value":1,"time":0}', NOW, FEW)[2:4]
    assert (0, 0) == decode(b'{"value":1,"time":-0e-5}', NOW, FEW)[2:4]
    assert (-1, -1) == decode(b'{"value":1,"time":"1970-01-01T00:59:59.9999+01:00"}', NOW, FEW)[2:4]
    assert (0, 0) == decode(b'{"value":1,"time":"1970-01-01T00\\u003a00:00Z"}', NOW, FEW)[2:4]
    batch = decode_batch(b'{"a":{"value":1,"time":7},"b":{"value":1}}', NOW, FEW)
    assert {"a": 7000, "b": NOW} == {name: readings.last for name, readings in batch.items()}


# Texts that are not JSON.


NOT_JSON = ["01", "-01", ".5", "-.5", "0x10", "+1", "1.", "1.e5", "1e", "1e+", "-", "--1", "1_000", "1f", "0b1", "00"]
NOT_JSON += ["nan", "inf", "-NaN", "True", "None", "undefined", "'1'", "1 2", "1/**/", "// 1", "\u0661", "\u00a01", ""]
NOT_JSON += ["[1", "1]", "[1,]", "[,]", '{"a":1,}', '{"a"}', "{a:1}", '{"a":}', '{"a",1}']
NOT_JSON += ['"', '"\\x"', '"\\u12"', '"\n"', '{"\t":1}']


@pytest.mark.parametrize("literal", NOT_JSON)
def test_a_literal_that_is_not_json_is_malformed(literal: str) -> None:
    for body in (f'{{"value":{literal}}}', f'{{"values":[1,{literal}]}}', f'{{"value":1,"time":{literal}}}'):
        assert refused(decode, body.encode()).startswith("Malformed: Expected JSON; line 1, column ")
        assert refused(decode_batch, f'{{"s":{body}}}'.encode()).startswith("Malformed: ")


GOOD = b'{"value": 1}'
MALFORMED = {
    "nothing": b"",
    "white space": b" \n",
    "garbage behind": GOOD + b"x",
    "a bracket behind": GOOD + b"}",
    "a null byte behind": GOOD + b"\x00",
    "two documents": GOOD + GOOD,
    "two lines of JSON": GOOD + b"\n" + GOOD,
    "cut off": GOOD[:-1],
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-16 without a mark": GOOD.decode().encode("utf-16-le"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "Latin-1 in a key": b'{"value": {"\xe9": 1}}',
    "Latin-1 in a time": b'{"value": 1, "time": "\xe9"}',
    "Latin-1 in an unknown key": b'{"\xe9": 1}',
    "a surrogate in UTF-8": b'{"value": {"\xed\xa0\x80": 1}}',
    "an overlong slash": b'{"value": {"\xc0\xaf": 1}}',
    "UTF-8 cut off": b'{"value": {"\xe2\x82": 1}}',
    "a form feed": b"\x0c" + GOOD,
    "a control character in a key": b'{"value": {"a\x01b": 1}}',
    "a comment": b'{"value": 1} // one',
    "100,000 open brackets": b"[" * 100_000,
    "100,000 open braces": b'{"value":' * 100_000,
    "100,000 brackets in a value": b'{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects in a value": b'{"value":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "100,000 brackets in a time": b'{"value":1,"time":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 brackets in an unknown member": b'{"value":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_text_that_is_not_json_is_malformed(body: bytes) -> None:
    assert refused(decode, body).startswith("Malformed: Expected ")
    assert refused(decode_batch, body).startswith("Malformed: Expected ")
    assert refused(decode_batch, b'{"s":' + body + b"}").startswith("Malformed: Expected ")


@pytest.mark.parametrize("depth", [2, 10, 100, 500])
def test_deep_nesting_is_refused(depth: int) -> None:
    arrays = b'{"value":' + b"[" * depth + b"1" + b"]" * depth + b"}"
    objects = b'{"value":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    assert f"Invalid at /value/0: {ITEM}" == refused(decode, arrays)
    assert f"Invalid at /value/a: {NUMBERS}" == refused(decode, objects)
    assert f"Invalid at /s/value/a: {NUMBERS}" == refused(decode_batch, b'{"s":' + objects + b"}")


def test_a_malformed_text_is_told_by_line_and_column() -> None:
    assert "Malformed: Expected JSON; line 2, column 12 is not." == refused(decode, b'{"time":0,\n "value": 01}')
    assert "Malformed: Expected UTF-8; byte 10 is not." == refused(decode, b'{"value":"\xff"}')
    assert "Malformed: Expected JSON that is not nested this deeply." == refused(decode, b"[" * 100_000)


# Batches and limits.


@pytest.mark.parametrize(
    ("pointer", "detail", "body"),
    [
        ("", "Expected at least one stream.", b"{}"),
        ("", "Expected at least one stream.", b" { } "),
        ("", 'Expected {"<stream>": {"value": v}, ...}.', b"[]"),
        ("", 'Expected {"<stream>": {"value": v}, ...}.', b'[{"a":{"value":1}}]'),
        ("", 'Expected {"<stream>": {"value": v}, ...}.', b"null"),
        ("/a", FORM, b'{"a":1}'),
        ("/a", FORM, b'{"a":null}'),
        ("/a", FORM, b'{"a":[1]}'),
        ("/value", FORM, b'{"value":1}'),
        ("/a", FORM, b'{"b":{"value":1},"a":{}}'),
        ("/a~0~1b", FORM, b'{"a~/b":{}}'),
    ],
)
def test_a_batch_of_another_form_is_refused(pointer: str, detail: str, body: bytes) -> None:
    assert f"Invalid at {pointer}: {detail}" == refused(decode_batch, body)


@pytest.mark.parametrize(
    "name",
    ["", ".", "a//b", "/a", "a/", "a b", "é", "*", "a\\n", "\\ud800", "\\u0000", "a/average", "count", "n" * 256],
)
def test_a_batch_with_a_name_that_is_no_streams_is_refused_without_repeating_it(name: str) -> None:
    said = refused(decode_batch, f'{{"ok": {{"value": 1}}, "{name}": {{"value": 1}}}}'.encode())
    assert said.startswith("Invalid at : Expected a stream name of 1 to 255 characters")
    assert len(name) < 100 or name not in said


def test_a_request_holds_exactly_as_many_readings_as_the_limit() -> None:
    assert 6 == decode(b'{"values":[1,2,3,4,5,6]}', NOW, FEW).size
    assert 2 == len(decode_batch(b'{"a":{"values":[1,2,3,4,5]},"b":{"value":6}}', NOW, FEW))
    for read, body in [
        (decode, b'{"values":[1,2,3,4,5,6,7]}'),
        (decode, b'{"v\\u0061lues":[1,2,3,4,5,6,7]}'),
        (decode_batch, b'{"a":{"values":[1,2,3,4,5]},"b":{"values":[6,7]}}'),
        (decode_batch, b'{"a":{"value":1},"b":{"value":1},"c":{"value":1},"d":{"values":[1,2,3,4]}}'),
    ]:
        assert "TooMany at None: Expected at most 6 readings in a request." == refused(read, body)
        with pytest.raises(TooMany):
            read(body, NOW, FEW)


@pytest.mark.parametrize(
    "body",
    [
        b'{"s3cret": 1}',
        b'{"value": "s3cret"}',
        b'{"value": s3cret}',
        b'{"value": 1} s3cret',
        b'{"value": 1, "time": "s3cret"}',
        b'{"value": 1, "s3cret": 1}',
        b'{"value": {"s3cret": 1, "s3cret": 1}}',
        b'{"value": {"s3cret\\n": 1}}',
        b'{"value": {"s3cret": "x"}}',
        b'{"values": [1, {"s3cret": 1}]}',
        b'{"value": "\xff s3cret"}',
    ],
)
def test_a_refusal_does_not_repeat_what_was_sent(body: bytes) -> None:
    for read, text in [(decode, body), (decode_batch, b'{"a": ' + body + b"}")]:
        detail = refused(read, text).partition(": ")[2]
        assert "s3cret" not in detail
    assert "s3cret" not in refused(decode_batch, b'{"s3cret s3cret": ' + body + b"}")


def test_a_large_body_is_read_to_the_last_bit() -> None:
    random = Random(3)
    values = [[random.uniform(1, 10) * 10.0 ** random.randint(-139, 138) for _ in range(8)] for _ in range(1000)]
    read = decode(repr({"values": values}).replace("'", '"').encode(), NOW, Limits())
    assert values == average(read)
