"""Holds times to RFC 3339 and to whole milliseconds: a misread time would be a wrong first or last reading for ever."""

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meanwhile.core.times import EARLIEST, LATEST, parse, to_text

law = settings(derandomize=True, deadline=None, max_examples=100)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = st.integers(-(24 * 60 - 1), 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@law
@given(st.integers(EARLIEST, LATEST))
@example(EARLIEST)
@example(LATEST)
@example(-1)
@example(0)
def test_what_to_text_writes_parse_reads(milliseconds: int) -> None:
    assert milliseconds == parse(to_text(milliseconds))
    assert 24 == len(to_text(milliseconds))


@law
@given(st.lists(st.integers(EARLIEST, LATEST), min_size=2, max_size=2))
def test_texts_sort_as_the_times_do(times: list[int]) -> None:
    assert sorted(map(to_text, times)) == list(map(to_text, sorted(times)))


@law
@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=ZONES))  # noqa: DTZ001  # ZONES gives the zone
def test_a_text_in_any_zone_is_the_same_moment_cut_to_milliseconds(moment: datetime) -> None:
    assert (moment - EPOCH) // timedelta(milliseconds=1) == parse(moment.isoformat())


@law
@given(st.floats(EARLIEST / 1000, LATEST / 1000))
def test_unix_seconds_are_rounded_to_the_nearest_millisecond(seconds: float) -> None:
    milliseconds = parse(seconds)
    assert milliseconds is not None
    assert Fraction(1, 2) + Fraction(1, 64) >= abs(Fraction(seconds) * 1000 - milliseconds)


@law
@given(st.floats())
@example(253402300800.0)
@example(-62135596801.0)
def test_any_double_is_a_time_of_the_years_1_to_9999_or_refused(seconds: float) -> None:
    milliseconds = parse(seconds)
    inside = EARLIEST <= seconds * 1000 < LATEST + 0.5
    assert inside == (milliseconds is not None and EARLIEST <= milliseconds <= LATEST)


@law
@given(st.text("0123456789-:TtZz+. \n\u0660", max_size=30))
def test_any_text_is_a_time_of_the_years_1_to_9999_or_refused(text: str) -> None:
    milliseconds = parse(text)
    assert milliseconds is None or EARLIEST <= milliseconds <= LATEST


@pytest.mark.parametrize(
    ("milliseconds", "time"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (0, "1970-01-01t00:00:00z"),
        (0, "1970-01-01 00:00:00Z"),
        (0, "1970-01-01T00:00:00+00:00"),
        (0, "1970-01-01T00:00:00-00:00"),
        (0, "1970-01-01T23:59:00+23:59"),
        (0, "1969-12-31T18:30:00-05:30"),
        (500, "1970-01-01T00:00:00.5Z"),
        (50, "1970-01-01T00:00:00.05Z"),
        (999, "1970-01-01T00:00:00.999999999999Z"),
        (-1, "1969-12-31T23:59:59.9999Z"),
        (1_483_228_800_000, "2016-12-31T23:59:60Z"),
        (951_782_400_000, "2000-02-29T00:00:00Z"),
        (EARLIEST, "0001-01-01T00:00:00Z"),
        (EARLIEST, "0001-01-01T01:00:00+01:00"),
        (LATEST, "9999-12-31T23:59:59.999999Z"),
        (0, 0.0),
        (0, -0.0),
        (1_500, 1.5),
        (-1_500, -1.5),
        (1_767_225_600_123, 1767225600.123),
        (LATEST, 253402300799.999),
        (EARLIEST, -62135596800.0),
    ],
)
def test_times_that_are_understood(milliseconds: int, time: float | str) -> None:
    assert milliseconds == parse(time)


@pytest.mark.parametrize(
    "time",
    [
        "",
        "now",
        "0",
        "1767225600",
        "2026-01-01",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01T00:00:00+0100",
        "2026-01-01T00:00:00+01",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+01:60",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:61Z",
        "2026-00-01T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59-00:01",
        "20260101T000000Z",
        "2026-W01-1T00:00:00Z",
        "26-01-01T00:00:00Z",
        "+2026-01-01T00:00:00Z",
        "12026-01-01T00:00:00Z",
        " 2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z ",
        "2026-01-01T00:00:00Z\n",
        "2026-01-01  00:00:00Z",
        "2026-01-01T00:00:00ZZ",
        "\u0662\u0660\u0662\u0666-01-01T00:00:00Z",
        "2026-01-01T00:00:0\u0661Z",
        "2026-01-01T00:00:00.\u0661Z",
        "2026-01-01T00:00:00+0\u0661:00",
        "2026-01-01T00:00:00\ud800",
        "2026-01-01T00:00:00." + "9" * 100_000,
        float("nan"),
        float("inf"),
        float("-inf"),
        1e300,
        -1e300,
        253402300799.9996,
        253402300800.0,
        -62135596800.001,
    ],
    ids=lambda time: repr(time)[:40],
)
def test_times_that_are_refused(time: float | str) -> None:
    assert parse(time) is None


def test_a_text_in_milliseconds_has_four_digits_of_year_and_three_of_fraction() -> None:
    assert "0001-01-01T00:00:00.000Z" == to_text(EARLIEST)
    assert "0999-12-31T23:59:59.999Z" == to_text(-30_610_224_000_001)
    assert "1969-12-31T23:59:59.999Z" == to_text(-1)
    assert "9999-12-31T23:59:59.999Z" == to_text(LATEST)
