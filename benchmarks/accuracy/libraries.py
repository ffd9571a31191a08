"""Libraries for arrays, tables and streams. Only ``make accuracy`` installs them."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import polars as pl
import river
import river.stats

from benchmarks.accuracy.peer import Answer, Peer, for_each


def peers() -> list[Peer]:
    """Returns the libraries, each with its default settings."""
    return [
        Peer("numpy", np.__version__, "`x.mean()`, `x.std(ddof=1)`", "every value", for_each(_numpy)),
        Peer(
            "pandas",
            pd.__version__,
            "`Series.mean()`, `Series.std()`, without bottleneck",
            "every value",
            for_each(_pandas),
        ),
        Peer("polars", pl.__version__, "`Series.mean()`, `Series.std()`", "every value", for_each(_polars)),
        Peer("River", river.__version__, "`stats.Mean`, root of `stats.Var`", "constant", for_each(_river)),
    ]


def _numpy(values: Sequence[float]) -> Answer:
    array = np.array(values)
    return Answer(float(array.mean()), float(array.std(ddof=1)))


def _pandas(values: Sequence[float]) -> Answer:
    series = pd.Series(values)
    return Answer(float(series.mean()), float(series.std()))


def _polars(values: Sequence[float]) -> Answer:
    series = pl.Series(values)
    return Answer(float(series.mean()), float(series.std()))


def _river(values: Sequence[float]) -> Answer:
    mean, variance = river.stats.Mean(), river.stats.Var()
    for value in values:
        mean.update(value)
        variance.update(value)
    squared = variance.get()
    return Answer(mean.get(), math.sqrt(squared) if squared >= 0 else math.nan)
