"""The comparison with other programs: without those that only ``make accuracy`` installs."""

import doctest
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import figures, formulas, ours, reference, series, strd, tables
from benchmarks.accuracy.figures import SINGLE, Groups
from benchmarks.accuracy.reference import Exact
from tests.support.numbers import is_rounded_root, numbers
from tests.support.paths import ROOT

RESULTS = json.loads((ROOT / "benchmarks" / "accuracy" / "results.json").read_text())
DOCUMENT = (ROOT / "docs" / "accuracy.md").read_text()
README = (ROOT / "README.md").read_text()
CERTIFIED = {
    "PiDigits": (5000, 15),
    "Lottery": (218, 15),
    "Lew": (200, 15),
    "Mavro": (50, 13.1),
    "Michelso": (100, 13.8),
    "NumAcc1": (3, 15),
    "NumAcc2": (1001, 15),
    "NumAcc3": (1001, 9.5),
    "NumAcc4": (1001, 8.3),
}


@pytest.fixture(scope="module")
def asked() -> Groups:
    return figures.groups()


@pytest.fixture(scope="module")
def exact(asked: Groups) -> dict[tuple[str, str], Exact]:
    return figures.exact_results(asked)


def measured(name: str) -> dict[str, Any]:
    """The figures of a program in the results."""
    (found,) = [one for one in RESULTS["peers"] if one["name"] == name]
    return dict(found)


def errors(found: dict[str, Any]) -> list[float | None]:
    return [error for group in SINGLE for one in found[group].values() for error in one.values()]


def test_the_service_is_exact_in_all_series_and_all_orders(asked: Groups, exact: dict[tuple[str, str], Exact]) -> None:
    with ours.meanwhile() as peer:
        found = figures.compare(peer, asked, exact)
    assert [0.0] * 60 == errors(found)
    assert {"mean": 1, "deviation": 1} == found["distinct"]
    assert measured(ours.NAME) | {"version": found["version"]} == found


def test_the_figures_of_the_formulas_are_those_of_the_document(
    asked: Groups, exact: dict[tuple[str, str], Exact]
) -> None:
    for peer in formulas.peers():
        if peer.name in {"naive sums", "Welford"}:
            assert measured(peer.name) | {"version": peer.version} == figures.compare(peer, asked, exact)


@pytest.mark.parametrize("one", strd.SETS, ids=lambda one: one.name)
def test_the_sets_of_nist_have_their_certified_values(one: strd.ReferenceSet) -> None:
    values, (size, digits) = one.values(), CERTIFIED[one.name]
    found = reference.exact(values)
    assert size == one.size == len(values)
    assert 15 == reference.agreeing_digits(found.mean, one.mean)
    assert digits == reference.agreeing_digits(found.sample_deviation, one.deviation)


def test_decimal_readings_have_nists_deviation_exactly() -> None:
    """What is missing to 15 digits is lost when the readings become doubles."""
    for one in strd.SETS:
        values = [Fraction(Decimal(repr(value))) for value in one.values()]
        total, squares = sum(values, Fraction()), sum((value * value for value in values), Fraction())
        variance = (squares - total**2 / one.size) / (one.size - 1)
        assert 15 == reference.agreeing_digits(float(total / one.size), one.mean)
        assert 15 == reference.agreeing_digits(reference.rounded_root(variance), one.deviation)


def test_the_orders_are_different_orders_of_the_same_readings() -> None:
    orders = list(series.orders().values())
    assert series.ORDERS == len({tuple(one) for one in orders})
    assert 1 == len({tuple(sorted(one)) for one in orders})
    assert {series.READINGS} == set(map(len, orders))


@given(st.lists(numbers(), min_size=2, max_size=8))
def test_the_reference_rounds_once(values: list[float]) -> None:
    found = reference.exact(values)
    total, squares = sum(map(Fraction, values)), sum(Fraction(value) ** 2 for value in values)
    spread = squares - Fraction(total) ** 2 / len(values)
    assert float(Fraction(total) / len(values)) == found.mean
    assert is_rounded_root(found.sample_deviation, spread / (len(values) - 1))
    assert is_rounded_root(found.population_deviation, spread / len(values))


def test_the_examples_in_the_docstrings_are_right() -> None:
    for module in (reference, strd):
        failed, tried = doctest.testmod(module)
        assert (0, True) == (failed, tried > 0)


def test_errors_are_counted_in_units_of_the_last_place() -> None:
    assert 0 == reference.ulps(21.4, 21.4)
    assert 3 == reference.ulps(21.4 + 3 * math.ulp(21.4), 21.4)
    assert math.inf == reference.ulps(1e-300, 0.0) == reference.ulps(math.nan, 1.0) == reference.ulps(math.inf, 1.0)


def test_the_tables_are_those_of_the_results() -> None:
    assert DOCUMENT == tables.replace_section(DOCUMENT, RESULTS)
    for name, description in series.DESCRIPTIONS.items():
        assert f"| {name} | {description} |" in DOCUMENT


def test_the_readme_promises_what_was_measured() -> None:
    assert f"compares it with {len(RESULTS['peers']) - 1} programs: {tables.promise(RESULTS)}." in README


def test_python_is_as_exact_as_the_document_admits() -> None:
    assert {0.0} == set(errors(measured("`statistics.mean`")))
    assert "every value" == measured("`statistics.mean`")["keeps"]
    constant = [one for one in RESULTS["peers"] if one["keeps"] == "constant"]
    assert [ours.NAME] == [one["name"] for one in constant if set(errors(one)) == {0.0}]
