"""Asks every program for every series, and counts how far its answers are from the exact ones."""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy import reference, series, strd
from benchmarks.accuracy.peer import Answer, Peer
from benchmarks.accuracy.reference import Exact

Groups = dict[str, series.Series]
SINGLE = ("real", "constructed", "nist")  # Groups of different series; the other one is one series in many orders.


def groups() -> Groups:
    """Returns all series by group."""
    return {
        "real": series.real(),
        "constructed": series.constructed(),
        "nist": {one.name: one.values() for one in strd.SETS},
        "orders": series.orders(),
    }


def exact_results(asked: Groups) -> dict[tuple[str, str], Exact]:
    """Returns the exact results, by group and name. All orders of the same readings have the same result."""
    found = {}
    for group, named in asked.items():
        shared = reference.exact(next(iter(named.values()))) if group == "orders" else None
        for name, values in named.items():
            found[group, name] = shared or reference.exact(values)
    return found


def compare(peer: Peer, asked: Groups, exact: Mapping[tuple[str, str], Exact]) -> dict[str, Any]:
    """Returns the figures of a program, as they are in ``results.json``.

    An infinite error is None there. If a program offers no deviation, the key is missing.
    """
    flat = {f"{group}/{name}": values for group, named in asked.items() for name, values in named.items()}
    answers = peer.answer(flat)
    figures: dict[str, Any] = {
        "name": peer.name,
        "version": peer.version,
        "how": peer.how,
        "keeps": peer.keeps,
        "deviation_of": "population" if peer.is_population else "sample",
    }
    for group in SINGLE:
        figures[group] = {name: _errors(peer, answers[f"{group}/{name}"], exact[group, name]) for name in asked[group]}
    figures["digits"] = {one.name: _digits(peer, answers[f"nist/{one.name}"], one) for one in strd.SETS}
    shuffled = [answers[f"orders/{name}"] for name in asked["orders"]]
    deviations = [one.deviation for one in shuffled if one.deviation is not None]
    figures["distinct"] = {"mean": _distinct([one.mean for one in shuffled])}
    if deviations:
        figures["distinct"]["deviation"] = _distinct(deviations)
    return figures


def _errors(peer: Peer, answer: Answer, exact: Exact) -> dict[str, float | None]:
    errors = {"mean": _finite(reference.ulps(answer.mean, exact.mean))}
    if answer.deviation is not None:
        correct = exact.population_deviation if peer.is_population else exact.sample_deviation
        errors["deviation"] = _finite(reference.ulps(answer.deviation, correct))
    return errors


def _digits(peer: Peer, answer: Answer, certified: strd.ReferenceSet) -> dict[str, float]:
    """NIST certifies the sample deviation, so that of a population has no figure here."""
    digits = {"mean": reference.agreeing_digits(answer.mean, certified.mean)}
    if answer.deviation is not None and not peer.is_population:
        digits["deviation"] = reference.agreeing_digits(answer.deviation, certified.deviation)
    return digits


def _finite(error: float) -> float | None:
    return float(f"{error:.4g}") if math.isfinite(error) else None


def _distinct(results: Sequence[float]) -> int:
    """Returns how many different bit patterns there are."""
    return len({struct.pack("<d", one) for one in results})
