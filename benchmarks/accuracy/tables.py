"""The tables: on the terminal, and as a section of docs/accuracy.md."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import series, strd
from benchmarks.accuracy.figures import SINGLE
from benchmarks.accuracy.ours import NAME

_START, _END = "<!-- make accuracy: from here -->", "<!-- make accuracy: to here -->"
_NO_DIGIT = 2.0**52  # ulp: as large as the result itself.
_NONE = "n/a"
_WIDTH = 150  # Columns of the terminal; narrower ones wrap the lines.
Rows = list[list[str]]


def show(results: Mapping[str, Any], console: Console) -> None:
    """Prints the tables."""
    console.width = max(console.width, _WIDTH)
    console.print(_about(results).replace("`", ""), style="dim", soft_wrap=True)
    for title, header, rows in _tables(results):
        table = Table(*(name.replace("`", "") for name in header), title=title.replace("`", ""), title_justify="left")
        for row in rows:
            table.add_row(*(cell.replace("`", "").replace("**", "") for cell in row))
        console.print(table)


def section(results: Mapping[str, Any]) -> str:
    """Returns the generated part of ``docs/accuracy.md``, between its marks."""
    lines = [_START, _about(results), ""]
    for title, header, rows in _tables(results):
        lines += [f"### {title}", "", _row(header), "|" + "---|" * len(header), *map(_row, rows), ""]
    lines[-1] = _END
    return "\n".join(lines)


def replace_section(document: str, results: Mapping[str, Any]) -> str:
    """Returns ``document`` with the section of these results in place of the last one."""
    before, _, rest = document.partition(_START)
    _, _, after = rest.partition(_END)
    return before + section(results) + after


def promise(results: Mapping[str, Any]) -> str:
    """Returns what the README says of the results."""
    ours, *others = results["peers"]
    count = sum(len(ours[group]) for group in SINGLE)
    named = {one["name"]: one for one in others}
    distinct = ", ".join(f"{name} {named[name]['distinct']['mean']}" for name in ("numpy", "Welford"))
    worst = max(_worst(ours, group, which) for group in SINGLE for which in ("mean", "deviation"))
    return (
        f"{_shown(worst)} ulp of error in {count} series, and {ours['distinct']['mean']} result for "
        f"{series.ORDERS} orders ({distinct})"
    )


def _tables(results: Mapping[str, Any]) -> Iterator[tuple[str, list[str], Rows]]:
    """Yields each table as title, header and rows."""
    peers = results["peers"]
    header = [
        "",
        *(f"{group}: {which}" for group in ("real", "NIST", "constructed") for which in ("mean", "deviation")),
    ]
    yield (
        "Largest errors in ulp, and distinct results for 20 orders",
        [*header, "distinct means", "distinct deviations", "keeps"],
        [[_name(one), *_summary(one), one["keeps"]] for one in peers],
    )
    for which, title in (("mean", "Mean"), ("deviation", "Standard deviation")):
        yield (
            f"{title} of the constructed series, errors in ulp",
            ["", *series.DESCRIPTIONS],
            [
                [_name(one), *(_error(one["constructed"][name], which) for name in series.DESCRIPTIONS)]
                for one in peers
                if which in one["distinct"]
            ],
        )
    sets = [one.name for one in strd.SETS]
    yield (
        "NIST: digits of the deviation that agree with the certified value, at most 15",
        ["", "mean, all nine sets", *sets],
        [[_name(one), *_digits(one, sets)] for one in peers],
    )
    yield (
        "Versions and settings",
        ["", "version", "mean and deviation"],
        [[_name(one), one["version"], one["how"]] for one in peers],
    )


def _summary(one: Mapping[str, Any]) -> list[str]:
    return [
        *(
            _shown(_worst(one, group, which)) if which in one["distinct"] else _NONE
            for group in ("real", "nist", "constructed")
            for which in ("mean", "deviation")
        ),
        *(str(one["distinct"].get(which, _NONE)) for which in ("mean", "deviation")),
    ]


def _digits(one: Mapping[str, Any], sets: Sequence[str]) -> list[str]:
    digits = one["digits"]
    means = [digits[name]["mean"] for name in sets]
    deviations = [digits[name].get("deviation") for name in sets]
    return [f"{min(means):g}", *(_NONE if value is None else f"{value:g}" for value in deviations)]


def _worst(one: Mapping[str, Any], group: str, which: str) -> float:
    """Returns the largest error of a group; an infinite one is None in the results."""
    errors = [figures.get(which, 0.0) for figures in one[group].values()]
    return max(float("inf") if error is None else error for error in errors)


def _error(figures: Mapping[str, float | None], which: str) -> str:
    error = figures[which]
    return _shown(float("inf") if error is None else error)


def _shown(error: float) -> str:
    if error >= _NO_DIGIT:
        return "no digit"
    return f"{error:,.0f}" if error < 100_000 else f"{error:.0e}".replace("e+0", "e").replace("e+", "e")


def _name(one: Mapping[str, Any]) -> str:
    return f"**{NAME}**" if one["name"] == NAME else str(one["name"])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _about(results: Mapping[str, Any]) -> str:
    about, missing = results["machine"], results["missing"]
    text = (
        f"Measured on {results['measured_on']} with `make accuracy`, on {about['processor']}, {about['system']}, with "
        f"Python {about['python']} and Valkey {about['valkey']}."
    )
    if missing:
        text += f" Not installed, and therefore not in the tables: {', '.join(missing)}."
    return text
