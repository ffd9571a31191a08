"""Line protocol: what each line says, which stream it names, and the right number for each wrong one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meanwhile.core.errors import TooMany
from meanwhile.core.readings import Limits
from meanwhile.core.stream_names import is_name
from meanwhile.formats.line_protocol import PRECISIONS, Points, decode, without
from meanwhile.formats.line_protocol_names import DEFAULT, check_pattern, name_of

law = settings(derandomize=True, deadline=None, max_examples=200)

NOW = 1_767_225_600_000


def read(body: str | bytes, unit: int = 1, pattern: str = DEFAULT) -> Points:
    return decode(body.encode() if isinstance(body, str) else body, unit, NOW, pattern, Limits())


def values(points: Points) -> dict[str, list[float]]:
    return {name: readings.columns[0] for name, readings in points.readings.items()}


def wrong_lines(points: Points) -> list[int]:
    return [wrong.line for wrong in points.wrong]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("m f=1.5", {"m/f": [1.5]}),
        ("m f=1.5 1767225600000000000", {"m/f": [1.5]}),
        ("m,host=a f=1", {"m/a/f": [1.0]}),
        ("m,b=2,a=1 f=1", {"m/1/2/f": [1.0]}),
        (
            "m f=1i,g=2u,h=-3i,i=-1e-3,j=+5,k=5.,l=.5,n=1E3",
            dict(
                zip(
                    map("m/{}".format, "fghijkln"),
                    ([x] for x in (1.0, 2.0, -3.0, -0.001, 5.0, 5.0, 0.5, 1000.0)),
                    strict=True,
                )
            ),
        ),
        ('m f=1,s="a b,c=d",b=true,g=2', {"m/f": [1.0], "m/g": [2.0]}),
        ('m s="only" 5', {}),
        ("m b=t", {}),
        ("m a=T,b=True,c=TRUE,d=f,e=F,g=false,h=False,i=FALSE", {}),
        ('m s="quoted \\" and \\\\",f=1', {"m/f": [1.0]}),
        ('m s="two\nlines",f=1', {"m/f": [1.0]}),
        ("m\\ x,t\\=y=a\\,b f\\ g=1", {"m~20x/a~2Cb/f~20g": [1.0]}),
        ("m\\x f=1", {"m~5Cx/f": [1.0]}),
        ("  m   f=1   5  ", {"m/f": [1.0]}),
        ("m f=1 -5\r", {"m/f": [1.0]}),
        ("m f=0,g=-0.0,h=0e9", {"m/f": [0.0], "m/g": [0.0], "m/h": [0.0]}),
        ("m f=9223372036854775807i", {"m/f": [9.223372036854776e18]}),
        ('m,t="q" f=1', {"m/~22q~22/f": [1.0]}),
        ("m=x f=1", {"m~3Dx/f": [1.0]}),
        ("", {}),
        ("# m f=1", {}),
        ("   \r", {}),
    ],
)
def test_a_line_says_what_its_numeric_fields_are(line: str, expected: dict[str, list[float]]) -> None:
    points = read(f"first f=7\n{line}\nlast f=8\n")
    assert {"first/f": [7.0], "last/f": [8.0]} | expected == values(points)
    assert [] == points.wrong


WRONG = [
    *(
        "m",
        "m ",
        "m f",
        "m f=",
        "m =1",
        "m,t f=1",
        "m,t= f=1",
        "m,=a f=1",
        "m, f=1",
        ",t=a f=1",
        " f=1",
        "m f=1,",
        "m ,f=1",
    ),
    *(
        "m f=1,,g=2",
        "m f=1_0",
        "m f=nan",
        "m f=inf",
        "m f=-inf",
        "m f=NaN",
        "m f=1e400",
        "m f=1e-400",
        "m f=1e141",
        "m f=0x1",
    ),
    *(
        "m f=1.5i",
        "m f=1-2",
        "m f=e5",
        "m f=.",
        "m f=-",
        "m f=1ii",
        "m f=yes",
        "m f=1e",
        "m f=1 2 3",
        "m f=1 1.5",
        "m f=1 x",
    ),
    *(
        "m f=1 99999999999999999999",
        "m f=1,f=2",
        "m,a=1,a=2 f=1",
        'm f="open',
        'm f="a"b',
        'm f="a",',
        'm f="a" x',
        "m f='a'",
    ),
    *(
        "m f=\u0661",
        "m\tf=1",
        "m f=1\tg=2",
        "m f=1\x00",
        "\\",
        "m\\",
        "m f=1\\",
        "m f=1\r\r5",
        '"',
        "=",
        ",",
        "m g=2,f=1e-141",
    ),
    *("m f=" + "1" * 400, "m," + "t" * 300 + "=" + "a" * 300 + " f=1", "m" * 5000 + " f=1", "m f=1 2\u00a0"),
]


@pytest.mark.parametrize("line", WRONG, ids=lambda line: ascii(line[:40]))
def test_a_wrong_line_is_told_by_its_number_and_says_nothing_about_the_others(line: str) -> None:
    points = read(f"first f=7\n\n{line}\nlast f=8,g=9\nlast f=8\n")
    assert [3] == wrong_lines(points)
    assert {"first/f": [7.0], "last/f": [8.0, 8.0], "last/g": [9.0]} == values(points)
    assert len(line) < 3 or line not in points.wrong[0].detail


def test_a_line_that_is_not_utf_8_is_wrong_where_it_matters() -> None:
    points = read(b'm\xff f=1\nm,t=\xff f=1\nm \xff=1\nm s="\xff",f=1\nm f=2')
    assert [1, 2, 3] == wrong_lines(points)
    assert {"m/f": [1.0, 2.0]} == values(points)


def test_a_string_with_line_feeds_counts_its_lines() -> None:
    points = read('bad\nm s="1\nm f=1\n3",f=4 5\nbad\nm s="open\nm f=6')
    assert [1, 5, 6] == wrong_lines(points)
    assert {"m/f": [4.0, 6.0]} == values(points)
    assert [2, 7] == points.gathered["m/f"].places


@pytest.mark.parametrize(("precision", "unit"), PRECISIONS.items())
def test_a_timestamp_counts_units_of_the_precision(precision: str, unit: int) -> None:
    stamp = 1_767_225_600 * 10**9 // unit
    one = read(f"m f=1 {stamp}", unit).readings["m/f"]
    assert (stamp * unit // 10**6, stamp * unit // 10**6) == (one.first, one.last)


def test_without_a_timestamp_it_is_now() -> None:
    points = read("m f=1\nm f=1 1000000\n")
    assert (1, NOW) == (points.readings["m/f"].first, points.readings["m/f"].last)
    assert {1} == points.untimed


def test_a_timestamp_outside_the_years_is_wrong() -> None:
    points = read("m f=1 1\nm f=1 9223372036854775807\nm f=2 -999999999999\n", 10**9)
    assert [2, 3] == wrong_lines(points)
    assert {"m/f": [1.0]} == values(points)


def test_lines_can_be_taken_out_afterwards() -> None:
    points = without(read("a f=1\nbad\nb f=2,g=3\na f=4"), {3}, "expected something else", Limits())
    assert {"a/f": [1.0, 4.0]} == values(points)
    assert [(2, 3), "expected something else"] == [tuple(wrong_lines(points)), points.wrong[1].detail]


def test_more_readings_than_the_limit_are_too_many() -> None:
    decode(b"m a=1,b=2\nm s=t", 1, NOW, DEFAULT, Limits(readings=2))
    with pytest.raises(TooMany):
        decode(b"m a=1,b=2\nm c=3", 1, NOW, DEFAULT, Limits(readings=2))


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ("m f=" + "1" * 1_000_000 + "x", 1),
        ("m f=" + "1" * 500_000 + "." + "1" * 500_000 + "e", 1),
        ('m f="' + 'a\\"' * 300_000, 1),
        ("m," + "a=1," * 200_000 + " f=1", 1),
        ("m " + "f=1," * 200_000, 1),
        ("\\" * 1_000_000, 1),
        (" " * 1_000_000 + "x", 1),
        ("\n".join(['m f="\\"'] * 50_000), 50_000),
        ("\n".join(['m f="'] * 50_000), 0),
        ("\n".join(['m f="a" x'] * 50_000), 50_000),
    ],
    ids=lambda value: ascii(value[:12]) if isinstance(value, str) else "",
)
def test_no_text_takes_longer_than_its_length_explains(body: str, wrong: int) -> None:
    """A second is usual; what is quadratic takes minutes, and the time limit ends it."""
    points = read(body)
    assert (wrong, {}) == (len(points.wrong), points.readings)


# Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (("cpu", [("host", "a")], "usage_idle"), "cpu/a/usage_idle"),
        (("m", [], "count"), "m/~63ount"),
        (("m", [], "average"), "m/~61verage"),
        (("count", [("t", "count")], "f"), "count/count/f"),
        (("m", [("t", ".")], ".."), "m/~2E/~2E."),
        (("m", [("t", "...")], "a.b"), "m/.../a.b"),
        (("a/b", [("path", "/srv")], "x y"), "a~2Fb/~2Fsrv/x~20y"),
        (("a~b", [], "f"), "a~7Eb/f"),
        (("°C", [("entity", "küche")], "value"), "x~~C2~B0C/k~C3~BCche/value"),
        (("_internal", [], "f"), "x~_internal/f"),
        (("x", [("t", "°")], "f"), "x/~C2~B0/f"),
    ],
)
def test_a_point_names_its_stream(point: tuple[str, list[tuple[str, str]], str], expected: str) -> None:
    assert expected == name_of(DEFAULT, *point)
    assert is_name(expected)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{measurement}/{field}", "m/f"),
        ("{measurement}/{pairs}/{field}", "m/a:1/b:x~3Ay/f"),
        ("site-1/{tags}/{field}/{measurement}", "site-1/1/x:y/f/m"),
        ("{field}", "f"),
    ],
)
def test_a_pattern_says_what_a_name_is_made_of(pattern: str, expected: str) -> None:
    assert expected == name_of(check_pattern(pattern), "m", [("b", "x:y"), ("a", "1")], "f")


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a",
        "{measurement}",
        "{field}/count",
        "a//{field}",
        "/{field}",
        "{field}/",
        "{x}/{field}",
        "{field}-{tags}",
        "../{field}",
        "a b/{field}",
        "~61/{field}",
    ],
)
def test_other_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="Expected"):
        check_pattern(pattern)


TEXTS = st.text(st.sampled_from("ab.~/:_-° xX0%é,=count"), min_size=1, max_size=6)
TAGS = st.dictionaries(TEXTS, TEXTS, max_size=2).map(lambda tags: sorted(tags.items()))
POINTS = st.tuples(TEXTS, TAGS, st.one_of(TEXTS, st.sampled_from(["count", "events", ".", ".."])))


@law
@given(points=st.lists(POINTS, min_size=2, max_size=12))
def test_different_points_have_different_streams(points: list[tuple[str, list[tuple[str, str]], str]]) -> None:
    by_pairs = {name_of("{measurement}/{pairs}/{field}", *point): point for point in points}
    assert len({repr(point) for point in points}) == len(by_pairs)
    by_values = {name_of(DEFAULT, *point) for point in points}
    assert len({repr((m, [value for _, value in tags], f)) for m, tags, f in points}) == len(by_values)
    assert all(map(is_name, [*by_pairs, *by_values]))


# Laws -------------------------------------------------------------------------------------------------------------


def escaped(text: str, special: str) -> str:
    return "".join("\\" + character if character in special else character for character in text)


FIELDS = st.dictionaries(
    TEXTS,
    st.one_of(st.floats(1e-9, 1e9), st.integers(-999, 999), st.booleans(), st.text('a"\\ ,=\n', max_size=3)),
    min_size=1,
    max_size=3,
)


@law
@given(points=st.lists(st.tuples(TEXTS, TAGS, FIELDS, st.one_of(st.none(), st.integers(0, 10**18))), max_size=5))
def test_what_is_written_by_the_rules_is_read_as_it_was(
    points: list[tuple[str, list[tuple[str, str]], dict[str, float | int | bool | str], int | None]],
) -> None:
    lines, expected = [], []
    for measurement, tags, fields, stamp in points:
        literals = {
            key: f'"{escaped(value, chr(34) + chr(92))}"'
            if isinstance(value, str)
            else str(value) + "i" * (type(value) is int)
            for key, value in fields.items()
        }
        head = "".join(
            [escaped("m" + measurement, ", "), *(f",{escaped(k, ',= ')}={escaped(v, ',= ')}" for k, v in tags)]
        )
        body = ",".join(f"{escaped(key, ',= ')}={literal}" for key, literal in literals.items())
        lines.append(f"{head} {body}" + (f" {stamp}" if stamp is not None else ""))
        expected += [
            (name_of(DEFAULT, "m" + measurement, tags, key), float(value))
            for key, value in fields.items()
            if not isinstance(value, bool | str)
        ]
    points_read = read("\n".join(lines))
    assert [] == points_read.wrong
    assert sorted(expected) == sorted((name, value) for name, column in values(points_read).items() for value in column)


@law
@given(data=st.data())
def test_garbage_is_wrong_by_line_and_never_more(data: st.DataObject) -> None:
    body = bytearray(b'm,t=a f=1.5,s="a\\"b",g=2i 1767225600000000000\nm\\ x f=1\n# c\n' * 2)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    lines = body.count(b"\n") + 1
    assert set(wrong_lines(read(bytes(body)))) <= set(range(1, lines + 1))


# Hostile bodies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        'm f="' + '\\"' * 200_000 + '"',
        "m " + ",".join(f"f{n}=1" for n in range(20_000)),
        "m," + ",".join(f"t{n}=1" for n in range(20_000)) + " f=1",
        "m " + "," * 200_000,
        'm f="' + "x\n" * 40_000 + '",g=1',
    ],
    ids=["escapes", "fields", "tags", "commas", "a string over many lines"],
)
def test_a_line_longer_than_64_kib_is_wrong_and_holds_up_no_other(body: str) -> None:
    points = decode(f"a f=1\n{body}\nb f=2 5".encode(), 1, NOW, DEFAULT, Limits())
    assert {"a/f": [1.0], "b/f": [2.0]} == {name: one.columns[0] for name, one in points.readings.items()}
    assert 2 == points.wrong[0].line


def test_a_long_comment_is_a_comment() -> None:
    assert [] == decode(b"#" + b"x" * 100_000 + b"\na f=1", 1, NOW, DEFAULT, Limits()).wrong


def test_more_wrong_lines_than_readings_are_allowed_are_too_many() -> None:
    with pytest.raises(TooMany):
        decode(b"x\n" * 3_000, 1, NOW, DEFAULT, Limits(readings=1_000))


def test_a_string_with_line_feeds_is_found_wherever_the_body_is_cut() -> None:
    for before in range(1_630, 1_650):  # Lines of ten characters: around the end of the first 16 KiB.
        body = "m f=1    \n" * before + 'm s="a\nb",g=2\nm h=3'
        points = decode(body.encode(), 1, NOW, DEFAULT, Limits())
        assert [] == points.wrong
        assert {"m/f": before, "m/g": 1, "m/h": 1} == {name: one.size for name, one in points.readings.items()}
