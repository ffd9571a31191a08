"""NDJSON: both readers give one answer, everything before the first wrong line counts, and its number is right."""

import json
from math import copysign
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meanwhile.core.errors import Invalid
from meanwhile.core.readings import Limits
from meanwhile.formats import columns, ndjson
from meanwhile.formats.ndjson import Chunk, decode
from meanwhile.formats.strict_json import Malformed

law = settings(derandomize=True, deadline=None, max_examples=150)

NOW = 1_767_225_600_000
LIMITS = Limits(components=4, names=3)
GOOD = b'{"stream": "a", "value": 1}'


def answer(chunk: Chunk) -> str:
    wrong = chunk.wrong
    why = None if wrong is None else (type(wrong).__name__, getattr(wrong, "detail", ""), getattr(wrong, "pointer", ""))
    places = {name: columns[1:] for name, columns in chunk.gathered.items()}
    return repr((places, chunk.readings, chunk.lines, why))


def read(lines: bytes) -> Chunk:
    """What both readers make of lines: the fast one may leave them to the strict one, but not say something else."""
    found = decode(lines, NOW, LIMITS)
    count = lines.count(b"\n") + (not lines.endswith(b"\n") and lines != b"")
    assert answer(found) == answer(ndjson._strict(lines, count, NOW, LIMITS))
    return found


def rows(chunk: Chunk) -> list[tuple[int, str, Any, int]]:
    return sorted(
        (place, name, value, time)
        for name, columns in chunk.gathered.items()
        for value, time, place in zip(*columns, strict=True)
    )


def test_each_line_is_a_reading_of_its_stream() -> None:
    chunk = read(
        b'{"stream":"a","value":1}\n'
        b'{"value":[1,2],"stream":"b/c:d"}\r\n'
        b' {"stream" : "a" , "value":-2.5e1, "time":1.5 }\t\n'
        b'{"stream":"o","value":{"x:":1,"y":[2]},"time":"2026-01-01T00:00:01Z"}'
    )
    assert [
        (0, "a", 1.0, NOW),
        (1, "b/c:d", [1.0, 2.0], NOW),
        (2, "a", -25.0, 1_500),
        (3, "o", {"x:": 1.0, "y": [2.0]}, NOW + 1_000),
    ] == rows(chunk)
    assert (4, None) == (chunk.lines, chunk.wrong)
    assert ([1.0, -25.0], 1_500, NOW, -2) == chunk.readings["a"][1:]  # The first one is the latest.


def test_the_usual_lines_are_left_to_the_fast_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ndjson, "_strict")
    for lines in (
        GOOD,
        GOOD + b"\n",
        GOOD + b"\r\n" + GOOD + b"\r\n",
        b'{"stream":"a:b","value":1.5,"time":"2026-01-01T00:00:00Z"}\n{"stream":"v","value":[0.5,2]}\n',
        b'{"stream":"o","value":{"x:":1e-5}}\n',
    ):
        assert None is decode(lines, NOW, LIMITS).wrong


@pytest.mark.parametrize("lines", [b"", b"\n", b"\r\n \n\t\n"])
def test_empty_lines_are_counted_and_say_nothing(lines: bytes) -> None:
    assert Chunk({}, {}, lines.count(b"\n")) == read(lines)
    chunk = read(lines + b"\n" + GOOD + b"\n\n")
    assert [(lines.count(b"\n") + 1, "a", 1.0, NOW)] == rows(chunk)
    assert lines.count(b"\n") + 3 == chunk.lines


def test_a_zero_has_no_sign() -> None:
    chunk = read(b'{"stream":"a","value":-0.0}\n{"stream":"a","value":1}')
    assert 1.0 == copysign(1.0, chunk.readings["a"].columns[0][0])


WRONG = [
    *(b"x", b"{", b"}", b"[]", b"1", b'"a"', b"null", b"{}", b'{"stream":"a"}', b'{"value":1}', b"\x00", b"\xff"),
    *(b'{"stream":"a","value":1', b'{"stream":"a","value":1}}', GOOD + GOOD, GOOD + b" " + GOOD, b"[" + GOOD + b"]"),
    *(GOOD + b",", GOOD + b" x", b"\xef\xbb\xbf" + GOOD, b'{"stream":"a","value":1,}', b"[" * 100_000),
    *(
        b'{"stream":"a","value":1,"value":2}',
        b'{"stream":"a","stream":"b","value":1}',
        b'{"stream":"a","value":1,"x":1}',
    ),
    *(b'{"stream":"a","value":1,"\\u0076alue":2}', b'{"stream":"a:","stream":"a","value":1}'),
    *(
        b'{"stream":"a","values":[1]}',
        b'{"stream":"a","value":1,"time":null}',
        b'{"stream":"a","value":1,"time":"now"}',
    ),
    *(b'{"stream":"a","value":1,"time":1e15}', b'{"stream":"a","value":1,"time":1e-400}', b'{"stream":null,"value":1}'),
    *(
        b'{"stream":1,"value":1}',
        b'{"stream":"/a","value":1}',
        b'{"stream":"a/count","value":1}',
        b'{"stream":"","value":1}',
    ),
    *(b'{"stream":"a b","value":1}', b'{"stream":"a\\n","value":1}', b'{"stream":"' + b"a" * 256 + b'","value":1}'),
    *(
        b'{"stream":"a","value":%s}' % value
        for value in (b"true", b"null", b'"1"', b"[]", b"{}", b"[[1]]", b"NaN", b"1_0")
    ),
    *(
        b'{"stream":"a","value":%s}' % value
        for value in (b"1e400", b"1e-400", b"1e141", b"1e-141", b"0x1", b"01", b".5")
    ),
    *(
        b'{"stream":"a","value":0.' + b"0" * 400 + b"1}",
        b'{"stream":"b","value":[1,2,3,4,5]}',
        b'{"stream":"b","value":[1,null]}',
    ),
    *(b'{"stream":"b","value":{"":1}}', b'{"stream":"b","value":{"a":1,"a":1}}', b'{"stream":"b","value":{"a":[]}}'),
    *(b'{"stream":"a","value":[1]}', b'{"stream":"a","value":{"x":1}}'),
]


@pytest.mark.parametrize("line", WRONG, ids=lambda line: ascii(line[:40]))
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_wrong_line_ends_what_is_read_and_has_its_number(line: bytes, before: int) -> None:
    good = GOOD if before else b""  # A first line cannot have another shape.
    lines = [good] * before + [line, b'{"stream": "later", "value": 1}']
    chunk = read(b"\n".join(lines) + b"\n")
    if before == 0 and line in WRONG[-2:]:
        assert None is chunk.wrong
        return
    assert isinstance(chunk.wrong, Malformed | Invalid)
    assert before == chunk.lines
    assert [(i, "a", 1.0, NOW) for i in range(before)] == rows(chunk)


def test_objects_that_lines_do_not_separate_are_no_lines() -> None:
    assert 0 == read(b'{"stream":"a",\n"value":1}' + GOOD + b"\n").lines
    assert 0 == read(b'{"stream":"b","value":{"x":1\n}}' + GOOD).lines
    assert 1 == read(GOOD + b"\n" + GOOD + GOOD + b"\n\n" + GOOD).lines


def test_a_wrong_line_is_named_by_its_pointer_or_its_column() -> None:
    wrong = read(GOOD + b'\n{"stream":"b","value":[1,"x"]}').wrong
    assert isinstance(wrong, Invalid)
    assert "/value/1" == wrong.pointer
    wrong = read(b"\n" + GOOD + b"x").wrong
    assert isinstance(wrong, Malformed)
    assert f"Expected JSON; column {len(GOOD) + 1} is not." == wrong.detail


def test_too_many_numbers_in_a_long_line_are_refused_before_they_are_made() -> None:
    limits = Limits(components=50_000, names=3)
    within, beyond = (b'{"stream":"a","value":[' + b",".join([b"1"] * n) + b"]}\n" for n in (50_000, 60_000))
    assert [None, 50_000] == [(one := decode(within, NOW, limits)).wrong, one.readings["a"].shape.components]
    wrong = decode(beyond, NOW, limits).wrong
    assert isinstance(wrong, Invalid)
    assert ("Expected at most 50000 numbers in a value.", "/value") == (wrong.detail, wrong.pointer)
    many = GOOD.replace(b'"a"', b'"a,b"') + b"\n"
    assert 4_000 == decode((GOOD + b"\n") * 4_000, NOW, Limits(components=1, names=1)).lines
    assert 0 == decode(many * 4_000, NOW, Limits(components=1, names=1)).lines


def test_a_part_of_a_chunk_keeps_the_numbers_of_its_lines() -> None:
    chunk = read(b"\n".join(b'{"stream":"%s","value":%d,"time":%d}' % (b"ab"[i % 2 :][:1], i, i) for i in range(6)))

    def part(start: int, stop: int, starts: dict[str, int]) -> dict[str, tuple[Any, ...]]:
        some = columns.rows_between(chunk.gathered, start, stop, starts)
        return {name: one[1:] for name, one in columns.of_rows(chunk.gathered, chunk.readings, some).items()}

    assert {"a": ([2.0, 4.0], 2_000, 4_000, -1), "b": ([3.0], 3_000, 3_000, -1)} == part(2, 5, {})
    assert {"a": ([4.0], 4_000, 4_000, -1), "b": ([1.0, 3.0], 1_000, 3_000, -1)} == part(1, 5, {"a": 3})
    assert {"b": ([3.0], 3_000, 3_000, -1)} == part(2, 4, {"a": 4})
    assert {} == part(2, 2, {})


VALUES = st.one_of(
    st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-140),
    st.lists(st.integers(0, 9), min_size=1, max_size=2),
    st.dictionaries(st.sampled_from(["x", "a:b"]), st.integers(0, 9), min_size=1),
)
LINES = st.one_of(
    st.fixed_dictionaries(
        {"stream": st.sampled_from(["a", "b:c", "d/e"]), "value": VALUES},
        optional={"time": st.sampled_from([0, 1.5, "2026-01-01T00:00:00Z"])},
    ).map(lambda line: json.dumps(line).encode()),
    st.sampled_from([b"", b" ", *WRONG[:40]]),
)


@law
@given(lines=st.lists(LINES, max_size=8), end=st.sampled_from([b"", b"\n", b"\r\n"]))
def test_whatever_comes_both_readers_give_one_answer(lines: list[bytes], end: bytes) -> None:
    read(b"\n".join(lines) + end)


@law
@given(data=st.data())
def test_garbage_is_refused_and_never_more(data: st.DataObject) -> None:
    body = bytearray(b'{"stream":"a:b","value":{"x":1,"y":[2.5e-1]},"time":"2026-01-01T00:00:00Z"}\n' * 3)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(body))


MIXED = [
    b'{"stream":"a","value":1}',
    b'{"stream":"\\u0061","value":-0.0}',
    b'{"stream":"b","value":[1,2]}',
    b'{"stream":"b","value":[1,1e-300]}',
    b'{"stream":"b","value":[1,2,3]}',
    b'{"stream":"c","value":{"x":1,"y":[2]}}',
    b'{"stream":"c","value":{"y":[2],"x":1}}',
    b'{"stream":"c","value":{"x":1}}',
    b'{"stream":"c","value":{}}',
    b'{"stream":"a","value":1e200}',
    b'{"stream":"a","value":1,"time":"x"}',
    b'{"stream":"a","value":1,"value":2}',
    b'{"stream":"*","value":1}',
    b"",
    b"{",
]


@pytest.mark.parametrize("seed", range(200))
def test_the_first_wrong_line_is_the_one_before_which_all_lines_are_right(seed: int) -> None:
    rng = Random(seed)
    weights = [rng.choice([1, 1, 20]) for _ in MIXED]
    lines = [line + b"\n" for line in rng.choices(MIXED, weights, k=rng.randint(1, 12))]
    chunk = ndjson.decode(b"".join(lines), NOW, LIMITS)
    before = ndjson.decode(b"".join(lines[: chunk.lines]), NOW, LIMITS)
    assert before.wrong is None
    assert (repr(before.readings), chunk.lines) == (repr(chunk.readings), before.lines)
    if chunk.wrong is None:
        assert len(lines) == chunk.lines
    else:
        until = ndjson.decode(b"".join(lines[: chunk.lines + 1]), NOW, LIMITS)
        assert (chunk.lines, repr(chunk.wrong)) == (until.lines, repr(until.wrong))
