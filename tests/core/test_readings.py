"""Holds the border: what a stream may be called, what a reading may be, and that shapes and components lose nothing.

A value that slips through here is in an average for ever; so each limit is tested on both sides.
"""

import gc
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from meanwhile.core.errors import Invalid, escape
from meanwhile.core.readings import Limits, Readings, collect
from meanwhile.core.shapes import NUMBER, Shape, Value, _short_shape, shape_from_text, shape_of
from meanwhile.core.stream_names import check_name, check_prefix, is_name
from tests.support.numbers import numbers

law = settings(derandomize=True, deadline=None, max_examples=100)

NAMES = st.text(st.sampled_from('ab0:"~/,{} é漢😀\\'), min_size=1, max_size=4)
PARTS = st.one_of(numbers(), st.lists(numbers(), min_size=1, max_size=3))
VALUES: st.SearchStrategy[Value] = st.one_of(PARTS, st.dictionaries(NAMES, PARTS, min_size=1, max_size=4))


def lengths(value: Value) -> Any:
    """What of a value its shape stands for, in other words than ``Shape``'s."""
    if isinstance(value, float):
        return "number"
    if isinstance(value, list):
        return len(value)
    return {name: lengths(part) for name, part in value.items()}


def resolve(value: Any, pointer: str) -> Any:
    """What a JSON Pointer leads to (RFC 6901, section 4)."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def refusal(values: list[Value], limits: Limits | None = None) -> Invalid:
    with pytest.raises(Invalid) as caught:
        collect(values, 0, 0, limits or Limits())
    return caught.value


@law
@given(VALUES, VALUES)
@example(1.0, [1.0])
@example({"a": 1.0}, {"a": [1.0]})
@example([1.0], {"1": 1.0})
@example({"a": 1.0, "b": 1.0}, {'a":0,"b': 1.0})
def test_two_shapes_are_equal_where_names_and_lengths_are(one: Value, other: Value) -> None:
    assert (lengths(one) == lengths(other)) == (shape_of(one).text == shape_of(other).text)
    assert (lengths(one) == lengths(other)) == (shape_of(one) == shape_of(other))


@law
@given(VALUES)
def test_a_shape_is_found_again_from_its_text(value: Value) -> None:
    _short_shape.cache_clear()
    assert shape_of(value) == shape_from_text(shape_of(value).text)


@law
@given(VALUES)
def test_value_is_the_inverse_of_flatten(value: Value) -> None:
    shape = shape_of(value)
    assert value == shape.value(shape.flatten(value))
    assert shape.components == len(shape.flatten(value))


@law
@given(st.dictionaries(NAMES, PARTS, min_size=2, max_size=4))
def test_the_order_in_which_an_object_lists_its_names_means_nothing(value: dict[str, float | list[float]]) -> None:
    backwards = dict(reversed(value.items()))
    assert shape_of(value) == shape_of(backwards)
    assert shape_of(value).flatten(value) == shape_of(value).flatten(backwards)


@law
@given(VALUES)
def test_a_pointer_leads_to_its_component(value: Value) -> None:
    shape = shape_of(value)
    components = shape.flatten(value)
    assert components == [resolve(value, shape.pointer(i)) for i in range(shape.components)]
    with pytest.raises(IndexError):
        shape.pointer(shape.components)


def test_a_shape_is_told_in_words() -> None:
    assert "a number" == str(shape_of(1.0))
    assert "an array of 1 number" == str(shape_of([1.0]))
    assert "an object of a (a number), b (an array of 2 numbers)" == str(shape_of({"b": [1.0, 2.0], "a": 1.0}))
    assert ("", '{"b":2,"é":0}') == (NUMBER.text, shape_of({"é": 1.0, "b": [1.0, 2.0]}).text)


@law
@given(st.lists(st.tuples(numbers(), st.lists(numbers(), min_size=2, max_size=2)), min_size=1, max_size=6))
def test_columns_are_the_readings_turned_on_their_side(pairs: list[tuple[float, list[float]]]) -> None:
    values: list[Value] = [{"t": t, "key": key} for t, key in pairs]
    collected = collect(values, 3, 4, Limits())
    assert len(pairs) == collected.size
    assert (3, 4) == (collected.first, collected.last)
    assert [[*key, t] for t, key in pairs] == [list(row) for row in zip(*collected.columns, strict=True)]
    assert values == [collected.shape.value(row) for row in zip(*collected.columns, strict=True)]


@law
@given(st.lists(numbers(), min_size=1, max_size=6))
def test_collecting_does_not_change_the_values(values: list[float]) -> None:
    given_values: list[Value] = [*values, -0.0]
    vectors: list[Value] = [[x, -0.0] for x in values]
    collect(given_values, 0, 0, Limits())
    collect(vectors, 0, 0, Limits())
    assert repr([*values, -0.0]) == repr(given_values)
    assert repr([[x, -0.0] for x in values]) == repr(vectors)


@law
@given(st.lists(st.one_of(numbers(), st.just(-0.0)), min_size=1, max_size=6))
@example([-0.0])
@example([-1.0, -0.0])
@example([-0.0, 1.0])
def test_every_zero_is_collected_as_a_positive_one(values: list[float]) -> None:
    collected = collect(list(values), 0, 0, Limits())
    assert repr([x + 0.0 for x in values]) == repr(collected.numbers)
    assert all(math.copysign(1.0, x) > 0 for x in collected.numbers if x == 0)


@law
@given(st.lists(numbers(), max_size=5), st.floats(), st.lists(numbers(), max_size=5))
@example([], math.nextafter(1e-140, 0), [])
@example([], -math.nextafter(1e140, math.inf), [1e140])
@example([1.0], 5e-324, [-1.0])
@example([1.0], math.nan, [2.0])
@example([math.inf], -math.inf, [])
@example([-2.0], math.nan, [-1.0, 1e-140])
def test_a_double_is_collected_or_refused_by_the_domain(before: list[float], x: float, after: list[float]) -> None:
    values: list[Value] = [*before, x, *after]
    wrong = [i for i, v in enumerate([*before, x, *after]) if not (v == 0 or 1e-140 <= abs(v) <= 1e140)]
    if wrong:
        assert f"/{wrong[0]}" == refusal(values).pointer
        assert f"/{wrong[0]}/1" == refusal([[1.0, v] for v in [*before, x, *after]]).pointer
    else:
        assert values == collect(values, 0, 0, Limits()).numbers


@pytest.mark.parametrize(
    ("pointer", "values"),
    [
        ("", []),
        ("/0", [[]]),
        ("/0", [{}]),
        ("/0", [{"a": []}]),
        ("/0", [{"a": 1.0, "b": []}]),
        ("/0", [{"": 1.0}]),
        ("/0", [{"n" * 256: 1.0}]),
        ("/0", [{"a\n": 1.0}]),
        ("/0", [{"\x7f": 1.0}]),
        ("/0", [{"\ud800": 1.0}]),
        ("/0", [{"\u202e": 1.0}]),
        ("/1", [1.0, [1.0]]),
        ("/1", [1.0, []]),
        ("/2", [[1.0], [2.0], 1.0]),
        ("/1", [[1.0], [1.0, 2.0]]),
        ("/1", [[1.0], {"a": 1.0}]),
        ("/1", [{"a": 1.0}, {"b": 1.0}]),
        ("/1", [{"a": 1.0}, {"a": [1.0]}]),
        ("/1", [{"a": 1.0}, {"a": 1.0, "b": 1.0}]),
        ("/1", [{"a": 1.0}, {}]),
        ("/0/b~1~0/1", [{"a": 1.0, "b/~": [1.0, 1e141]}]),
        ("/3/0", [[1.0], [2.0], [3.0], [1e-141]]),
    ],
)
def test_values_that_cannot_be_recorded_are_refused_at_their_place(pointer: str, values: list[Value]) -> None:
    assert pointer == refusal(values).pointer


@pytest.mark.parametrize(
    "values",
    [[1.0, {"s3cret": 1.0}], [{"s3cret\n": 1.0}], [{"s3cret": []}], [{"s3cret": 1e300}], [[3.3e300]], [3.3e300]],
)
def test_a_refusal_does_not_repeat_what_was_sent(values: list[Value]) -> None:
    assert "s3cret" not in refusal(values).detail
    assert "3.3" not in refusal(values).detail


def test_limits_allow_exactly_what_they_say() -> None:
    limits = Limits(readings=5, components=4, names=3)
    assert 4 == len(collect([[1.0] * 4], 0, 0, limits).columns)
    assert 4 == len(collect([{"a": [1.0, 2.0], "b": 1.0, "c": 1.0}], 0, 0, limits).columns)
    assert "/0" == refusal([[1.0] * 5], limits).pointer
    assert "/0" == refusal([{"a": [1.0] * 4, "b": 1.0}], limits).pointer
    assert "Expected at most 3 names in an object." == refusal([dict.fromkeys("abcd", 1.0)], limits).detail
    assert 1 == len(collect([{"n" * 255: 1.0}], 0, 0, limits).columns)
    assert (100_000, 1_024, 64, 1_500_000) == Limits()


def test_refused_values_are_not_remembered() -> None:
    # Shapes are cached; names of megabytes that were refused must not be, or a thousand such requests fill the memory.
    tracemalloc.start()
    try:
        for i in range(40):
            refusal([{f"{i}" + "n" * 100_000: 1.0}])
            refusal([{"a": 1.0}, {f"{i}" + "n" * 100_000: 1.0}])
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 2_000_000 > kept


def test_an_invalid_part_is_seen_from_above() -> None:
    assert "/a/b" == Invalid("Expected x.", "/b").under("/a").pointer
    assert "/a" == Invalid("Expected x.").under("/a").pointer
    assert "a~1b~0~01" == escape("a/b~~1")


def may_be_a_name(name: str) -> bool:
    """The rules of a stream's name, one by one."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    segments = name.split("/")
    return (
        1 <= len(name) <= 255
        and name[0] in letters
        and all(c in letters + "._:~-" for segment in segments for c in segment)
        and not {"", ".", ".."} & set(segments)
        and segments[-1] not in {"readings", "average", "count", "events"}
    )


@law
@given(
    st.one_of(
        st.text(st.sampled_from("aZ9._:~-/ \n*{}é\x00"), max_size=12),
        st.lists(st.sampled_from(["a", ".", "..", "...", "", "average", "averages", ".a", "0:", "~"]), max_size=5).map(
            "/".join
        ),
    )
)
@example("a\n")
@example("a/count")
@example("count/a")
@example("count")
@example("a/..b")
@example("a/..")
@example("a/./b")
@example("n" * 255)
@example("n" * 256)
@example("٣")
@example("a٣")
@example("\ud800")
@example("")
def test_a_name_is_a_streams_where_all_the_rules_say_so(name: str) -> None:
    assert may_be_a_name(name) == is_name(name)
    if may_be_a_name(name):
        assert name == check_name(name)
    else:
        with pytest.raises(Invalid) as caught:
            check_name(name)
        assert caught.value.pointer is None
        assert len(name) < 5 or name not in caught.value.detail or name in {"readings", "average", "count", "events"}


@law
@given(st.lists(st.sampled_from(["a", "b.c", "x:y", "~z", "-", "0"]), min_size=1, max_size=4).map("/".join), st.data())
def test_every_start_of_a_name_is_a_prefix(name: str, data: st.DataObject) -> None:
    assume(is_name(name))
    start = name[: data.draw(st.integers(0, len(name)))]
    assert start == check_prefix(start)


@pytest.mark.parametrize("prefix", ["*", "a*", "a?", "[a]", "a\n", "é", "a b", "a\\", "{a}", "\x00", "a" * 256])
def test_a_prefix_that_no_name_starts_with_is_refused(prefix: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_prefix(prefix)
    assert "Invalid" == type(caught.value).__name__


def test_a_number_is_the_plainest_shape() -> None:
    assert Shape("", ((None, 0),), 1) == shape_of(1.0) == shape_from_text("")
    assert "" == shape_of(1.0).pointer(0)
    assert 1.5 == NUMBER.value([1.5])


def test_the_description_of_a_shape_with_many_names_is_short() -> None:
    text = str(shape_of({f"name{n:02}": 1.0 for n in range(64)}))
    assert text.endswith(", name07 (a number), and 56 more")


def test_shapes_with_long_names_are_read_and_written_alike_and_not_remembered() -> None:
    value: Value = {f"{n:03}".ljust(255, "x"): 1.0 for n in range(20)}
    assert shape_of(value) == shape_from_text(shape_of(value).text)
    assert shape_of(value) is not shape_of(value)


@law
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=6), st.booleans())
def test_readings_that_are_joined_keep_the_latest_one_the_last_of_equal_times(
    times: list[list[int]], counts_from_end: bool
) -> None:
    number = 0.0
    expected = (-1, 0.0)
    joined: Readings | None = None
    for several in times:
        values: list[Value] = []
        latest = 0
        for place, time in enumerate(several):
            number += 1
            values.append([number, -number])
            if time >= several[latest]:
                latest = place
            if time >= expected[0]:
                expected = (time, number)
        position = latest - len(several) if counts_from_end else latest
        more = collect(values, min(several), max(several), Limits(), position)
        joined = more if joined is None else joined.extend(more)
    assert joined is not None
    assert (expected[1], -expected[1]) == joined.summarize().latest
