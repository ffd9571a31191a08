"""Summaries of columns of numbers, which are easier to read in a test than one flat list."""

from collections.abc import Sequence

from meanwhile.core.summary import Summary, summarize


def summary_of(columns: Sequence[Sequence[float]], first: int, last: int) -> Summary:
    """The summary of readings, one column per component; the last row is the latest."""
    return summarize([x for row in zip(*columns, strict=True) for x in row], len(columns), first, last)
